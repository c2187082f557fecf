//! A serial port as a guest and its machine use it: registers, input, saved state.

use super::*;
use proptest::prelude::*;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LSR: u64 = 5;
const SCRATCH: u64 = 7;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn port() -> (Arc<Serial>, Sink) {
    let sink = Sink::default();
    (Arc::new(Serial::new(0, Box::new(sink.clone())).unwrap()), sink)
}

fn read(serial: &Serial, register: u64) -> u8 {
    let mut byte = [0];
    serial.read(register, &mut byte);
    byte[0]
}

#[test]
fn what_the_guest_writes_reaches_the_sink() {
    let (mut serial, sink) = port();
    for byte in b"hello\n" {
        serial.write(DATA, &[*byte]);
    }
    serial.quiesce().unwrap();
    assert_eq!(*sink.0.lock().unwrap(), b"hello\n");
    assert_eq!(serial.output_position(), Some(6));
}

#[test]
fn input_is_taken_up_to_the_fifo_and_raises_the_interrupt() {
    let (serial, _) = port();
    serial.write(IER, &[1]);
    assert_eq!(serial.enqueue(&[b'a'; 100]).unwrap(), 64);
    assert_eq!(serial.enqueue(b"more").unwrap(), 0);
    assert_eq!(serial.interrupt().edges(), 1);
    assert_eq!(read(&serial, LSR) & 1, 1);
    for _ in 0..64 {
        assert!(serial.input_room().read().is_err());
        assert_eq!(read(&serial, DATA), b'a');
    }
    assert_eq!(serial.input_room().read().unwrap(), 1);
    assert_eq!(read(&serial, LSR) & 1, 0);
}

#[test]
fn accesses_of_any_width_and_offset_are_safe() {
    let (serial, _) = port();
    for offset in [0, 3, 7, 255, 256, u64::MAX - 3] {
        for len in 0..9 {
            serial.write(offset, &vec![0x80; len]);
            serial.read(offset, &mut vec![0; len]);
        }
    }
}

#[test]
fn state_survives_two_loads_of_different_states() {
    let (mut first, _) = port();
    first.write(SCRATCH, &[0x5a]);
    first.write(IER, &[1]);
    first.enqueue(b"unread").unwrap();
    let busy = first.save().unwrap();
    let (mut second, _) = port();
    let idle = second.save().unwrap();
    second.load(1, &busy).unwrap();
    assert_eq!(second.save().unwrap(), busy);
    second.load(1, &idle).unwrap();
    assert_eq!(second.save().unwrap(), idle);
    second.load(1, &busy).unwrap();
    assert_eq!(read(&second, SCRATCH), 0x5a);
    assert_eq!(read(&second, DATA), b'u');
    second.reset().unwrap();
    assert_eq!(second.save().unwrap(), idle);
}

#[test]
fn a_pending_interrupt_is_raised_again_when_the_guest_starts_and_not_before() {
    let (mut first, _) = port();
    first.write(IER, &[1]);
    first.enqueue(b"x").unwrap();
    let state = first.save().unwrap();
    let (mut second, _) = port();
    second.load(1, &state).unwrap();
    assert_eq!(second.interrupt().edges(), 0);
    second.resume().unwrap();
    assert_eq!(second.interrupt().edges(), 1);
    read(&second, IIR);
    second.resume().unwrap();
    assert_eq!(second.interrupt().edges(), 1);
}

#[test]
fn fields_beyond_what_a_port_can_reach_are_refused_by_name() {
    let (mut serial, _) = port();
    let good = serial.lock().state();
    let mut refuse = |field: &str, change: &dyn Fn(&mut SerialState)| {
        let mut state = good.clone();
        change(&mut state);
        let payload = saved::encode(&SavedSerial::from(state)).unwrap();
        let error = serial.load(1, &payload).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    };
    refuse("interrupt_enable", &|state| state.interrupt_enable = 0x10);
    refuse("interrupt_identification", &|state| state.interrupt_identification = 0);
    refuse("interrupt_identification", &|state| state.interrupt_identification = 8);
    refuse("received", &|state| state.in_buffer = vec![0; 65]);
    refuse("line_status", &|state| state.in_buffer = vec![0; 1]);
    refuse("line_status", &|state| state.line_status = 0);
    refuse("modem_status", &|state| state.modem_status = 1);
    assert!(matches!(serial.load(2, &[]), Err(LoadError::Version { found: 2, supported: 1 })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut serial, _) = port();
        if serial.load(1, &payload).is_ok() {
            let saved = serial.save().unwrap();
            serial.load(1, &saved).unwrap();
            prop_assert_eq!(serial.save().unwrap(), saved);
        }
    }

    #[test]
    fn whatever_a_guest_does_can_be_saved_and_loaded(
        accesses in prop::collection::vec((0u64..8, any::<Option<u8>>(), 0usize..80), 0..40),
    ) {
        let (mut serial, _) = port();
        for (register, write, input) in accesses {
            match write {
                Some(byte) => serial.write(register, &[byte]),
                None => { read(&serial, register); }
            }
            serial.enqueue(&vec![7; input]).unwrap();
        }
        let saved = serial.save().unwrap();
        let (mut other, _) = port();
        other.load(1, &saved).unwrap();
        prop_assert_eq!(other.save().unwrap(), saved);
    }
}
