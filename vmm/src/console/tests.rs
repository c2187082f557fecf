//! Input from a pipe to a port whose guest reads, or does not.

use std::io::Write;
use std::time::{Duration, Instant};

use ferry_devices::BusDevice;

use super::*;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const LINE_STATUS: u64 = 5;

fn pump(serial: &Arc<Serial>) -> (Pump, Arc<EventFd>) {
    let stop = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let pump = Pump {
        serial: serial.clone(),
        stop: stop.clone(),
        keys: None,
        terminal: None,
        hinted: false,
        waiting: Vec::new(),
        ended: false,
        leave: Box::new(|| {}),
    };
    (pump, stop)
}

fn read_register(serial: &Serial, offset: u64) -> u8 {
    let mut byte = [0];
    serial.read(offset, &mut byte);
    byte[0]
}

#[test]
fn a_guest_that_reads_late_loses_nothing() {
    let serial = Arc::new(Serial::new(0, Box::new(io::sink())).unwrap());
    serial.write(INTERRUPT_ENABLE, &[1]);
    let (input, mut typing) = io::pipe().unwrap();
    let (mut pump, _stop) = pump(&serial);
    let thread = std::thread::spawn(move || pump.run(&input));
    let typed: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    typing.write_all(&typed).unwrap();
    drop(typing);

    let deadline = Instant::now() + Duration::from_secs(20);
    let mut got = Vec::new();
    while got.len() < typed.len() {
        assert!(Instant::now() < deadline, "only {} bytes came", got.len());
        if read_register(&serial, LINE_STATUS) & 1 != 0 {
            got.push(read_register(&serial, DATA));
        } else {
            std::thread::yield_now();
        }
    }
    assert_eq!(got, typed);
    // The end of input ends the pump, and nothing else.
    thread.join().unwrap().unwrap();
}

#[test]
fn it_stops_while_input_is_held_back() {
    let serial = Arc::new(Serial::new(0, Box::new(io::sink())).unwrap());
    let (input, mut typing) = io::pipe().unwrap();
    typing.write_all(&[7; 1000]).unwrap();
    let (mut pump, stop) = pump(&serial);
    let thread = std::thread::spawn(move || pump.run(&input));
    stop.write(1).unwrap();
    thread.join().unwrap().unwrap();
}
