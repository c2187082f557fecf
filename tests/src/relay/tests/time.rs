//! Frames that are late or slow, and bytes that come before their time.

use std::time::Instant;

use super::*;
use crate::relay::TRICKLED;

#[test]
fn what_is_delayed_comes_so_much_later_in_its_order() {
    let late = Duration::from_millis(200);
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Message("Hello"), fault: Fault::Delay(late) }));
    let bytes = control_link();
    let sent = Instant::now();
    assert_eq!(received(&mut near, &mut far, &bytes), bytes);
    assert!(sent.elapsed() >= late, "the end of the stream is late too");
    let fates: Vec<_> = relay.frames().into_iter().filter_map(|frame| frame.fate).collect();
    assert_eq!(fates, ["late by 200 ms, with what follows"]);
}

#[test]
fn delays_do_not_add_up_and_the_other_direction_has_none() {
    let late = Duration::from_millis(300);
    let (mut near, mut far, _relay) = through(Some(Plan { at: Spot::UrgentPreamble, fault: Fault::Delay(late) }));
    let first = Instant::now();
    near.write_all(&urgent_link()).unwrap();
    // Three frames, sent at once.
    far.read_exact(&mut vec![0; urgent_link().len()]).unwrap();
    let took = first.elapsed();
    assert!(took >= late && took < 3 * late, "{took:?}");
    let asked = Instant::now();
    far.write_all(&request::encode(5, 7)).unwrap();
    near.read_exact(&mut [0; request::REQUEST_LEN]).unwrap();
    assert!(asked.elapsed() < late, "{:?}", asked.elapsed());
}

#[test]
fn what_trickles_comes_byte_by_byte() {
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Pages(0), fault: Fault::Trickle }));
    let mut bytes = Preamble { migration_id: 7, connection: 0, link: LinkRole::Bulk(0) }.encode().to_vec();
    let chunk = Chunk { index: 0, data: [0xff, 0, 0, 0, 0, 0, 0, 0], zero: [0; 8] };
    bytes.extend(bulk::encode(&Frame::Chunk(chunk), 7, 0));
    bytes.extend([9; 8 * 4096]);
    near.write_all(&bytes).unwrap();
    far.read_exact(&mut [0; 40]).unwrap();
    // How many pieces a receiver sees is up to the scheduler; a frame that comes as one is a few.
    let (mut arrived, mut pieces, mut buffer) = (40, 0, [0; 65536]);
    while arrived < bytes.len() {
        arrived += far.read(&mut buffer).unwrap();
        pieces += 1;
    }
    assert!(pieces > 10, "{pieces}");
    relay.wait_fired();
}

#[test]
fn a_trickle_ends() {
    let (mut near, mut far, _relay) = through(Some(Plan { at: Spot::Foreign, fault: Fault::Trickle }));
    // One by one, these would take more than twenty seconds.
    let bytes: Vec<u8> = (0..256 * TRICKLED).map(|at| at as u8).collect();
    let sent = Instant::now();
    let expected = bytes.clone();
    let sending = std::thread::spawn(move || near.write_all(&bytes).unwrap());
    let mut arrived = vec![0; expected.len()];
    far.read_exact(&mut arrived).unwrap();
    assert!(arrived == expected, "nothing is lost");
    assert!(sent.elapsed() < Duration::from_secs(10), "{:?}", sent.elapsed());
    sending.join().unwrap();
}

#[test]
fn bytes_are_inserted_before_a_frame() {
    let plan = Plan { at: Spot::Message("Permit"), fault: Fault::Insert(b"stranger".to_vec()) };
    let (mut near, mut far, _relay) = through(Some(plan));
    let bytes = control_link();
    let (before, after) = bytes.split_at(permit());
    assert_eq!(received(&mut near, &mut far, &bytes), [before, b"stranger", after].concat());
}

#[test]
fn a_frame_of_an_older_migration_can_be_replayed() {
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Message("Permit"), fault: Fault::Lose }));
    received(&mut near, &mut far, &control_link());
    let permit = relay.recorded(Spot::Message("Permit"));
    assert_eq!(permit, control_link()[super::permit()..]);
    let (mut near, mut far, _relay) =
        through(Some(Plan { at: Spot::Message("Hello"), fault: Fault::Insert(permit.clone()) }));
    let bytes = control_link();
    assert_eq!(received(&mut near, &mut far, &bytes), [&bytes[..40], &permit, &bytes[40..]].concat());
}
