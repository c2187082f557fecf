//! The path of a page, from one guest's memory to the other's: what it must not cost, and what it
//! leaves behind.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ferry_link::Link;
use ferry_machine::testing::has_kvm;
use ferry_machine::{Hold, Machine, MachineConfig, SerialSink};
use ferry_memory::sink::{Contents, PageSink, SinkError};
use ferry_memory::{Backing, MemoryConfig};
use ferry_migration::pages::{CHUNK_PAGES, PAGE_SIZE, PageBitmap, runs};
use ferry_migration::wire::bulk::Chunk;
use ferry_observe::events::Events;
use vm_memory::{Bytes, GuestAddress};

use super::destination::page_receiver::{Marker, PageReceiver};
use super::progress::{Direction, Progress};
use super::source::chunks::ChunkSender;
use super::source::controls::{Arrived, Controls};
use super::source::page_sender::PageSender;
use super::source::patience::Patience;
use crate::allocations::during;

const SESSION: u32 = 7;
const MIB: u64 = 1 << 20;
/// Of a round as a whole: its bitmap, and what was left over.
const OF_A_ROUND: u64 = 16;

fn machine(backing: Backing, mib: u64) -> Arc<Machine> {
    let config = MachineConfig {
        memory: MemoryConfig { size: mib * MIB, backing, prealloc: false },
        paused: true,
        serial: SerialSink::Null,
        ..MachineConfig::default()
    };
    Arc::new(Machine::build(&config, Arc::default()).unwrap())
}

fn progress(machine: &Machine, direction: Direction) -> Arc<Progress> {
    Progress::new(direction, machine.memory().pages() * PAGE_SIZE, Arc::new(Events::default()))
}

fn controls(sent: &Arc<Progress>, arrived: &Arc<Arrived>) -> Controls {
    Controls {
        stop: Arc::default(),
        end_round: Arc::default(),
        max_bandwidth: Arc::default(),
        progress: sent.clone(),
        arrived: arrived.clone(),
        patience: Arc::new(Patience::new(Duration::from_secs(30), Duration::ZERO)),
    }
}

fn ends() -> [Link; 2] {
    let (near, far) = UnixStream::pair().unwrap();
    [near, far].map(|end| Link::new(OwnedFd::from(end)).unwrap())
}

/// How the pages of a test travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    /// Compressed, all of them.
    Packed,
    /// Compressed, where every other chunk is not worth it.
    Mixed,
}

/// Bytes that nothing compresses.
pub(super) fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    }
}

/// Writes into every other page.
fn fill(machine: &Machine, form: Form, byte: u8) {
    let mut noise = noise(byte.into());
    for page in (0..machine.memory().pages()).step_by(2) {
        let mut bytes = [0; PAGE_SIZE as usize];
        if form == Form::Mixed && page / CHUNK_PAGES % 2 == 1 {
            bytes.fill_with(&mut noise);
        } else {
            bytes[..64].fill(byte);
        }
        machine.memory().guest().write_slice(&bytes, GuestAddress(page * PAGE_SIZE)).unwrap();
    }
}

fn contents(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; (machine.memory().pages() * PAGE_SIZE) as usize];
    machine.memory().guest().read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// Sends two rounds of a machine whose memory holds data in every other page. Returns the pages
/// with data, and how often the sender and the receiver have allocated in each round.
fn two_rounds(backing: Backing, mib: u64, form: Form) -> (u64, [u64; 2], [u64; 2]) {
    let (source, destination) = (machine(backing, mib), machine(backing, mib));
    let pages = source.memory().pages();
    fill(&source, form, 0x5a);
    let [near, far] = ends();
    let arrived: Arc<Arrived> = Arc::default();
    let sent = progress(&source, Direction::Outgoing);
    let controls = controls(&sent, &arrived);
    let received = progress(&destination, Direction::Incoming);
    let receives = destination.clone();
    let receiving = std::thread::spawn(move || {
        let mut receiver =
            PageReceiver::new(receives.memory().clone(), far, "bulk", SESSION, (received, Arc::default()));
        let mut direct = receiver.direct();
        [0, 1].map(|_| {
            let (mark, count) = during(|| receiver.until_marker(&mut direct).unwrap());
            let Marker::Reached(number) = mark else { panic!("{mark:?} in precopy") };
            arrived.tell(number);
            count
        })
    });
    let link = ChunkSender::new(source.clone(), &controls, near, "bulk", SESSION);
    let link = if form == Form::Plain { link } else { link.compressing() };
    let mut sender = PageSender::new(source.clone(), vec![link], controls).unwrap();
    let first = during(|| sender.round().unwrap()).1;
    fill(&source, form, 0xa5);
    let second = during(|| sender.round().unwrap()).1;
    assert_eq!(sent.pages.saved_bytes.load(Relaxed) > 0, form != Form::Plain);
    let received = receiving.join().unwrap();
    assert!(contents(&source) == contents(&destination), "{backing}, {form:?}");
    (pages / 2, [first, second], received)
}

#[test]
fn nothing_is_allocated_for_a_page() {
    if !has_kvm() {
        return;
    }
    let plain = [Backing::Anon, Backing::Memfd].map(|backing| (backing, Form::Plain));
    let packed = [Form::Packed, Form::Mixed].map(|form| (Backing::Anon, form));
    for (backing, form) in [plain, packed].concat() {
        // An unpacker's two buffers are made with the first chunk that needs them.
        let at_first = if form == Form::Plain { 0 } else { 2 };
        for mib in [32, 128] {
            let (pages, sent, received) = two_rounds(backing, mib, form);
            for count in sent {
                assert!(
                    count <= OF_A_ROUND,
                    "{backing}, {form:?}: {count} allocations to send a round of {pages} pages"
                );
            }
            assert_eq!(received, [at_first, 0], "{backing}, {form:?}: allocations to receive rounds of {pages} pages");
        }
    }
}

/// Keeps what comes beside the memory: a further kind of sink needs no more than this.
#[derive(Default)]
struct Kept(BTreeMap<u64, u8>);

impl PageSink for Kept {
    fn take(&mut self, chunk: &Chunk, contents: &mut dyn Contents) -> Result<(), SinkError> {
        let mut page = [0; PAGE_SIZE as usize];
        for (first, count) in runs(&chunk.data) {
            for number in first..first + count {
                contents.read(&mut page).map_err(SinkError::Contents)?;
                self.0.insert(u64::from(chunk.index) * CHUNK_PAGES + u64::from(number), page[0]);
            }
        }
        Ok(())
    }
}

#[test]
fn a_receiver_gives_chunks_to_any_sink() {
    if !has_kvm() {
        return;
    }
    for form in [Form::Plain, Form::Packed] {
        let source = machine(Backing::Anon, 32);
        fill(&source, form, 0x5a);
        let [near, far] = ends();
        let arrived: Arc<Arrived> = Arc::default();
        let sent = progress(&source, Direction::Outgoing);
        let received = progress(&source, Direction::Incoming);
        let (memory, told) = (source.memory().clone(), arrived.clone());
        let receiving = std::thread::spawn(move || {
            let mut receiver = PageReceiver::new(memory, far, "bulk", SESSION, (received, Arc::default()));
            let mut sink = Kept::default();
            let Marker::Reached(number) = receiver.receive(&mut sink, |_, _, _| {}).unwrap() else { panic!() };
            told.tell(number);
            sink
        });
        let controls = controls(&sent, &arrived);
        let link = ChunkSender::new(source.clone(), &controls, near, "bulk", SESSION);
        let link = if form == Form::Plain { link } else { link.compressing() };
        PageSender::new(source.clone(), vec![link], controls).unwrap().round().unwrap();
        let Kept(kept) = receiving.join().unwrap();
        let mut filled = (0..source.memory().pages()).step_by(2);
        assert!(filled.all(|page| kept.get(&page) == Some(&0x5a)), "{form:?}: every other page");
    }
}

#[test]
fn the_log_ends_with_the_migration_unless_the_guest_is_gone() {
    if !has_kvm() {
        return;
    }
    for handed_over in [false, true] {
        let source = machine(Backing::Anon, 32);
        let sent = progress(&source, Direction::Outgoing);
        let controls = controls(&sent, &Arc::default());
        let link = ChunkSender::new(source.clone(), &controls, ends()[0].clone(), "bulk", SESSION);
        let sender = PageSender::new(source.clone(), vec![link], controls).unwrap();
        if handed_over {
            source.hold(Hold::HandedOver).unwrap();
        }
        drop(sender);
        let logs = source.dirty_log().harvest(&mut PageBitmap::new(source.memory().pages())).is_ok();
        assert_eq!(logs, handed_over, "only who goes on writes");
    }
}
