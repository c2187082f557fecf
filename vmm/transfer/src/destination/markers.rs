//! The markers of the bulk links of one connection: a marker counts once it has come on all of
//! them.
//!
//! The threads that receive pages record each marker here; the one that completes it notifies the
//! driver.

use std::sync::{Mutex, PoisonError};

/// The newest marker of each bulk link.
#[derive(Debug)]
pub(super) struct Markers {
    newest: Mutex<Vec<Newest>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    arrived: bool,
    marker: u32,
}

impl Markers {
    /// For as many links as the source has announced.
    #[must_use]
    pub(super) fn new(links: u8) -> Self {
        Markers { newest: Mutex::new(vec![Newest::default(); links.into()]) }
    }

    /// Records the link of this number; false when it was not announced, or is here already.
    #[must_use]
    pub(super) fn arrives(&self, link: u8) -> bool {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.get_mut(usize::from(link)).is_some_and(|link| !std::mem::replace(&mut link.arrived, true))
    }

    /// Records `marker` on a link. Returns the marker that has now come on all of them, if it had
    /// not before.
    #[must_use]
    pub(super) fn reached(&self, link: u8, marker: u32) -> Option<u32> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let on_all = |newest: &[Newest]| newest.iter().map(|link| link.marker).min().unwrap_or(0);
        let before = on_all(&newest);
        let link = newest.get_mut(usize::from(link))?;
        link.marker = link.marker.max(marker);
        Some(on_all(&newest)).filter(|now| *now > before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_counts_when_it_has_come_on_every_link() {
        let markers = Markers::new(3);
        assert!((0..3).all(|link| markers.arrives(link)));
        assert_eq!(markers.reached(0, 1), None);
        assert_eq!(markers.reached(2, 1), None);
        // A link may be ahead.
        assert_eq!(markers.reached(0, 2), None);
        assert_eq!(markers.reached(1, 2), Some(1));
        assert_eq!(markers.reached(2, 2), Some(2));
        assert_eq!(markers.reached(2, 2), None, "once");
    }

    #[test]
    fn links_that_were_not_announced_and_second_ones_of_a_number_are_told_apart() {
        let markers = Markers::new(2);
        assert!(markers.arrives(0) && markers.arrives(1));
        assert!(!markers.arrives(1) && !markers.arrives(2));
        assert_eq!(markers.reached(7, 1), None);
    }

    #[test]
    fn one_link_is_all() {
        assert_eq!(Markers::new(1).reached(0, 5), Some(5));
    }
}
