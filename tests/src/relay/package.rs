//! Makes nonsense of one device's state inside a package, so that only the device itself can
//! notice: every checksum fits.

use ferry_migration::ToDestination;
use ferry_migration::section;
use ferry_migration::wire::control::{self, HEADER_LEN};

/// What was spoiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoiled {
    /// The section, for example `serial/0`.
    pub name: String,
    /// How many sections the package has.
    pub of: usize,
}

/// Fills the payload of section `at` with ones, in a whole frame of a package.
pub(super) fn spoil(frame: &mut Vec<u8>, at: usize) -> Option<Spoiled> {
    let word = |from: usize| u32::from_le_bytes(frame[from..from + 4].try_into().expect("four bytes"));
    let (session, sequence, body_len) = (word(4), word(8), word(12) as usize);
    let header = frame[..HEADER_LEN].try_into().expect("a header is so long");
    let header = control::decode_header::<ToDestination>(header, session, sequence).ok()?;
    let (body, attachment) = frame[HEADER_LEN..].split_at(body_len);
    let message = control::decode_body::<ToDestination>(&header, body, attachment).ok()?;
    let len = u32::from_le_bytes(attachment[..4].try_into().expect("four bytes")) as usize;
    let mut sections = section::decode(&attachment[4..4 + len]).ok()?;
    let of = sections.len();
    let section = sections.get_mut(at)?;
    section.payload.fill(0xff);
    let name = section.name();
    let spoiled = [&attachment[..4], &section::encode(&sections), &attachment[4 + len..]].concat();
    *frame = control::encode(&message, &spoiled, session, sequence).ok()?;
    frame.extend(spoiled);
    Some(Spoiled { name, of })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_migration::{Section, package};

    #[test]
    fn only_the_named_payload_changes_and_the_frame_is_whole() {
        let section = |instance| Section { device: "a".into(), instance, version: 3, payload: vec![1, 2] };
        let attachment = package::encode(&section::encode(&[section(0), section(1)]), None);
        let message = ToDestination::Package { generation: 1, marker: 2, postcopy: false };
        let mut frame = control::encode(&message, &attachment, 7, 5).unwrap();
        frame.extend(&attachment);
        assert_eq!(spoil(&mut frame, 2), None);
        assert_eq!(spoil(&mut frame, 1), Some(Spoiled { name: "a/1".into(), of: 2 }));
        let header = control::decode_header::<ToDestination>(frame[..HEADER_LEN].try_into().unwrap(), 7, 5).unwrap();
        let (body, attachment) = frame[HEADER_LEN..].split_at(header.body_len);
        assert_eq!(control::decode_body::<ToDestination>(&header, body, attachment).unwrap(), message);
        let (sections, _) = package::decode(attachment, 100).unwrap();
        assert_eq!(sections, [section(0), Section { payload: vec![0xff; 2], ..section(1) }]);
    }
}
