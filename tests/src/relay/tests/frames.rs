//! The frame log and the recorded bytes.

use super::*;
use crate::relay::Link;
use crate::wait::wait_until;

/// The names in the log, once a connection has ended in both directions.
fn names(relay: &Relay) -> Vec<String> {
    let frames = wait_until("both ends of the connection", SOON, || {
        let frames = relay.frames();
        (frames.iter().filter(|frame| frame.name == "end").count() == 2).then_some(frames)
    });
    frames.into_iter().map(|frame| frame.name).collect()
}

#[test]
fn messages_are_logged_one_by_one() {
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Message("Permit"), fault: Fault::Repeat }));
    let before = std::time::SystemTime::now();
    received(&mut near, &mut far, &control_link());
    drop(far);
    assert_eq!(names(&relay), ["opened", "preamble", "Hello", "Permit", "end", "end"]);
    let frames = relay.frames();
    assert!(frames.iter().all(|frame| frame.link == Link::Control && frame.connection == 0));
    assert!(frames.iter().is_sorted_by_key(|frame| frame.at) && frames[1].at >= before);
    let froms = frames.iter().map(|frame| frame.from == Side::Source).collect::<Vec<_>>();
    assert_eq!(froms, [true, true, true, true, true, false]);
    let lengths: Vec<_> = frames.iter().map(|frame| frame.bytes as usize).collect();
    assert_eq!(lengths[..4], [0, 40, permit() - 40, control_link().len() - permit()]);
    let fates: Vec<_> = frames.iter().filter_map(|frame| frame.fate.as_deref()).collect();
    assert_eq!(fates, ["arrived twice"]);
}

#[test]
fn pages_that_follow_one_another_are_one_entry_each_way() {
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Request(1), fault: Fault::Note }));
    near.write_all(&urgent_link()).unwrap();
    let requests = [5, 6, 7, 8].map(|page| request::encode(page, 7));
    far.write_all(requests.as_flattened()).unwrap();
    near.read_exact(&mut [0; 4 * request::REQUEST_LEN]).unwrap();
    let len = urgent_link().len();
    far.read_exact(&mut vec![0; len]).unwrap();
    drop((near, far));
    let mut names = names(&relay);
    names.sort_unstable();
    // One that something happens to stands alone.
    assert_eq!(names, ["end", "end", "opened", "pages 0-1", "preamble", "request 0", "request 1", "request 2-3"]);
    let pages = relay.frames().into_iter().find(|frame| frame.name == "pages 0-1").unwrap();
    assert_eq!((pages.bytes as usize, pages.link, pages.from), (len - 40, Link::Urgent, Side::Source));
}

#[test]
fn a_connection_that_the_relay_ends_or_a_peer_resets_is_logged_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), None);
    let events = || -> Vec<_> {
        let events = relay.frames().into_iter().filter(|frame| ["closed", "broken"].contains(&&*frame.name));
        events.map(|frame| (frame.connection, frame.name, frame.link, frame.fate)).collect()
    };
    let _cut = speaking(&relay, &listener, &bulk_link());
    relay.cut_all();
    let _reset = speaking(&relay, &listener, &urgent_link());
    relay.reset_all();
    let (resets, _far) = speaking(&relay, &listener, &control_link());
    rustix::net::connect_unspec(&resets).unwrap();
    wait_until("the reset to be noticed", SOON, || (events().len() == 3).then_some(()));
    let closed = |number, link, fate: &str| (number, "closed".to_owned(), link, Some(fate.to_owned()));
    let broken = (2, "broken".to_owned(), Link::Control, None);
    assert_eq!(events(), [closed(0, Link::Bulk, "cut"), closed(1, Link::Urgent, "reset"), broken]);
}

#[test]
fn the_newest_frame_of_a_spot_is_recorded_as_it_came() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan { at: Spot::Marker, fault: Fault::Corrupt(2) };
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), Some(plan));
    let (mut near, _far) = speaking(&relay, &listener, &bulk_link()[..40 + 160 + 8192]);
    for (number, sequence) in [(1, 1), (2, 2)] {
        let marker = bulk::encode(&Frame::Marker(number), 7, sequence);
        near.write_all(&marker).unwrap();
        wait_until("the marker to be recorded", SOON, || {
            (relay.frames().iter().filter(|frame| frame.name == "marker").count() == number as usize).then_some(())
        });
        assert_eq!(relay.recorded(Spot::Marker), marker);
    }
    assert_eq!(relay.recorded(Spot::Pages(0)), bulk_link()[40..40 + 160 + 8192]);
}
