//! A vCPU of this host's KVM that touches missing pages.
//!
//! The guest is a loop of four instructions in flat 32-bit mode without paging: it reads a word,
//! tells it by an MMIO write, and goes to the next page. At privilege level 3 hosts that emulate
//! level 0 run it natively.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use ferry_migration::pages::{PAGE_SIZE, PageBitmap};
use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::figures::report;
use super::harness::*;
use super::{Faults, Landing, PageSource};
use crate::{Backing, Memory};

const SIZE: u64 = 64 << 20;
const CODE: u64 = 0x10000;
const FIRST: u64 = 512;
const MMIO: u64 = 0xd000_0000;
/// Where Intel hosts keep three pages of their own: in the hole for devices.
const TSS: usize = 0xfffb_d000;
#[rustfmt::skip]
const LOOP: [u8; 15] = [
    0x8b, 0x06,                         // mov eax, [esi]
    0xa3, 0x00, 0x00, 0x00, 0xd0,       // mov [MMIO], eax
    0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, // add esi, 4096
    0xeb, 0xf1,                         // jmp to the start
];

/// Whether tests may use KVM. Without it they fail, unless `FERRY_NO_KVM=1` says that this is
/// known.
fn has_kvm() -> bool {
    if std::env::var_os("FERRY_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: FERRY_NO_KVM=1");
        return false;
    }
    if let Err(error) = Kvm::new() {
        panic!("/dev/kvm does not open: {error}; set FERRY_NO_KVM=1 to skip these tests");
    }
    true
}

/// A machine that has this memory and one vCPU, and no more.
fn machine(memory: &Memory) -> (VmFd, VcpuFd) {
    let vm = Kvm::new().and_then(|kvm| kvm.create_vm()).unwrap();
    vm.set_tss_address(TSS).unwrap();
    let region = kvm_userspace_memory_region {
        guest_phys_addr: 0,
        memory_size: SIZE,
        userspace_addr: memory.host_pages(0).0 as u64,
        ..Default::default()
    };
    // SAFETY: the range is mapped, and the caller drops its memory last.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    (vm, vcpu)
}

fn enter(vcpu: &VcpuFd, privilege: u8) {
    let segment = |type_, selector: u16| kvm_segment {
        limit: u32::MAX,
        selector: selector | u16::from(privilege),
        type_,
        present: 1,
        dpl: privilege,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.cs = segment(11, 8);
    (sregs.ds, sregs.es, sregs.ss) = (segment(3, 16), segment(3, 16), segment(3, 16));
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rflags, regs.rsi) = (CODE, 2, FIRST * PAGE_SIZE);
    vcpu.set_regs(&regs).unwrap();
}

/// Runs until the guest has told a word, and returns that.
fn run(vcpu: &mut VcpuFd) -> u32 {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioWrite(MMIO, bytes)) => return u32::from_le_bytes(bytes.try_into().unwrap()),
            Ok(other) => panic!("{other:?}"),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lets a vCPU read `count` pages of which none is here, and returns what it read and how long
/// each took.
fn touched(backing: Backing, privilege: u8, count: u64, here: bool) -> Vec<(u32, Duration)> {
    touched_from(backing, privilege, count, |faults, missing| {
        let source = Source::serve(faults);
        if here {
            send_all(faults, missing, 0, &false.into());
        }
        move || assert_eq!(source.end().len() as u64, if here { 0 } else { count }, "{backing}")
    })
}

/// The same, of pages that `serve` provides, whose result is called at the end.
fn touched_from<End: FnOnce()>(
    backing: Backing,
    privilege: u8,
    count: u64,
    serve: impl FnOnce(&Arc<Faults>, &PageBitmap) -> End,
) -> Vec<(u32, Duration)> {
    let memory = memory(SIZE, backing);
    memory.guest().write_slice(&LOOP, GuestAddress(CODE)).unwrap();
    let (vm, mut vcpu) = machine(&memory);
    let missing = pages(memory.pages(), |page| page >= FIRST);
    let faults = Faults::arm(&memory, &missing).unwrap();
    let end = serve(&faults, &missing);
    let (words, told) = channel();
    let thread = thread::spawn(move || {
        enter(&vcpu, privilege);
        for _ in 0..count {
            let start = Instant::now();
            let word = run(&mut vcpu);
            words.send((word, start.elapsed())).unwrap();
        }
        // The memory must outlive the vCPU.
        drop((vcpu, vm, memory));
    });
    let read = (0..count).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    thread.join().unwrap();
    end();
    read
}

#[test]
fn a_vcpu_finds_what_the_source_sent() {
    let _limit = limit();
    if !has_kvm() {
        return;
    }
    for backing in BACKINGS {
        for privilege in [0, 3] {
            for (at, (word, _)) in touched(backing, privilege, 1000, false).into_iter().enumerate() {
                assert_eq!(word, stamp(FIRST + at as u64, 1) as u32, "{backing}, privilege {privilege}");
            }
        }
    }
}

/// A file that holds guest memory, page after page.
struct FileSource {
    file: File,
    landing: Landing,
}

impl PageSource for FileSource {
    fn get(&mut self, page: u64) -> io::Result<()> {
        self.file.read_exact_at(self.landing.buffer(1), page * PAGE_SIZE)?;
        self.landing.place(page & !63, 1 << (page % 64)).map(drop).map_err(io::Error::other)
    }
}

/// The whole of a lazy restore but for the machine: no socket, and no second process.
#[test]
fn a_vcpu_finds_what_a_file_holds() {
    let _limit = limit();
    if !has_kvm() {
        return;
    }
    const COUNT: u64 = 500;
    let file = tempfile::tempfile().unwrap();
    let mut bytes = [0; PAGE_SIZE as usize];
    for page in FIRST..FIRST + COUNT {
        fill(&mut bytes, stamp(page, 3));
        file.write_all_at(&bytes, page * PAGE_SIZE).unwrap();
    }
    for backing in BACKINGS {
        let serve = |faults: &Arc<Faults>, _: &PageBitmap| {
            let mut source = FileSource { file: file.try_clone().unwrap(), landing: faults.landing() };
            let (faults, stop) = (faults.clone(), EventFd::new(libc::EFD_CLOEXEC).unwrap());
            let stopped = stop.try_clone().unwrap();
            let thread = thread::spawn(move || faults.serve(&mut source, &stopped));
            move || {
                stop.write(1).unwrap();
                thread.join().unwrap().unwrap();
            }
        };
        for (at, (word, _)) in touched_from(backing, 0, COUNT, serve).into_iter().enumerate() {
            assert_eq!(word, stamp(FIRST + at as u64, 3) as u32, "{backing}, page {at}");
        }
    }
}

#[test]
fn a_source_that_lacks_a_page_ends_the_service_and_names_it() {
    let _limit = limit();
    let memory = memory(SIZE, Backing::Anon);
    let missing = pages(memory.pages(), |page| page == FIRST);
    let faults = Faults::arm(&memory, &missing).unwrap();
    let mut source = FileSource { file: tempfile::tempfile().unwrap(), landing: faults.landing() };
    let stop = EventFd::new(libc::EFD_CLOEXEC).unwrap();
    let error = thread::scope(|scope| {
        let waits = scope.spawn(|| read_page(&memory, FIRST));
        let error = faults.serve(&mut source, &stop).unwrap_err().to_string();
        // What waits goes on, with zeros.
        faults.release().unwrap();
        waits.join().unwrap();
        error
    });
    assert!(error.starts_with("page 512 cannot be had: "), "{error}");
}

#[test]
#[ignore = "prints figures"]
fn figures_of_a_vcpu() {
    for backing in BACKINGS {
        for privilege in [0, 3] {
            for (here, what) in [(true, "is here"), (false, "is missing")] {
                let times = touched(backing, privilege, 10_000, here).into_iter().map(|(_, time)| time).collect();
                report(&format!("vCPU at level {privilege}, page {what}"), backing, times);
            }
        }
    }
}
