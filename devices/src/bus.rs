//! Buses: which device answers an access to a port or to an address outside RAM.
//!
//! The machine fills a [`Bus`] while it is built and then shares it, unchanged, between the vCPU
//! threads: looking a device up takes no lock and allocates nothing. Devices guard their own
//! state.

use std::fmt;
use std::sync::Arc;

/// A device as vCPUs access it.
///
/// Several vCPU threads may call at the same time. `data` has the length of the access, 1 to 8
/// bytes; a device accepts any length and offset without panicking, also those that it does not
/// implement.
pub trait BusDevice: Send + Sync {
    /// Handles a guest's read at `offset` bytes into the device's range: fills `data`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Handles a guest's write at `offset` bytes into the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range could not be put on a bus.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Empty, or beyond the end of the bus.
    #[error(
        "the {bus} bus has no range {start:#x}+{len:#x}: choose a non-empty range that ends at or below {limit:#x}"
    )]
    OutOfRange {
        /// `port` or `MMIO`.
        bus: &'static str,
        /// First address requested.
        start: u64,
        /// Number of addresses requested.
        len: u64,
        /// Highest address of the bus.
        limit: u64,
    },
    /// Another device has some of these addresses.
    #[error(
        "{bus} range {start:#x}+{len:#x} overlaps the device at {other_start:#x}+{other_len:#x}: give one of them other \
         addresses"
    )]
    Overlap {
        /// `port` or `MMIO`.
        bus: &'static str,
        /// First address requested.
        start: u64,
        /// Number of addresses requested.
        len: u64,
        /// First address of the device that is there.
        other_start: u64,
        /// Number of addresses of the device that is there.
        other_len: u64,
    },
}

/// One address space: I/O ports or memory-mapped registers.
///
/// An access that no device claims, or that does not lie wholly inside one device's range, reads
/// all ones and writes nothing, as on a PC.
pub struct Bus {
    name: &'static str,
    limit: u64,
    ranges: Vec<Range>,
}

struct Range {
    start: u64,
    last: u64,
    device: Arc<dyn BusDevice>,
}

impl Bus {
    /// The 65,536 I/O ports of x86.
    #[must_use]
    pub fn ports() -> Self {
        Bus { name: "port", limit: u64::from(u16::MAX), ranges: Vec::new() }
    }

    /// The guest physical address space.
    #[must_use]
    pub fn mmio() -> Self {
        Bus { name: "MMIO", limit: u64::MAX, ranges: Vec::new() }
    }

    /// Routes the `len` addresses from `start` to `device`.
    ///
    /// # Errors
    ///
    /// The range is empty, leaves the bus, or overlaps a device that is already there; the bus is
    /// then unchanged.
    pub fn insert(&mut self, start: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let last = len.checked_sub(1).and_then(|rest| start.checked_add(rest)).filter(|last| *last <= self.limit);
        let Some(last) = last else {
            return Err(BusError::OutOfRange { bus: self.name, start, len, limit: self.limit });
        };
        let at = self.ranges.partition_point(|range| range.last < start);
        if let Some(other) = self.ranges.get(at).filter(|range| range.start <= last) {
            return Err(BusError::Overlap {
                bus: self.name,
                start,
                len,
                other_start: other.start,
                other_len: (other.last - other.start).saturating_add(1),
            });
        }
        self.ranges.insert(at, Range { start, last, device });
        Ok(())
    }

    /// A guest's read at `address`: fills `data`, and returns whether a device claimed it.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// A guest's write at `address`; returns whether a device claimed it.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, &dyn BusDevice)> {
        let rest = u64::try_from(len).ok()?.checked_sub(1)?;
        let last = address.checked_add(rest)?;
        let range = self.ranges.get(self.ranges.partition_point(|range| range.last < address))?;
        (range.start <= address && last <= range.last).then(|| (address - range.start, &*range.device))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bus", self.name)?;
        f.debug_list().entries(self.ranges.iter().map(|range| (range.start, range.last))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    /// Answers with its tag and remembers writes.
    struct Tagged(u8, Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Tagged {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data.fill(self.0);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.1.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn tagged(tag: u8) -> Arc<Tagged> {
        Arc::new(Tagged(tag, Mutex::default()))
    }

    #[test]
    fn accesses_reach_the_device_that_claims_them() {
        let (low, high) = (tagged(1), tagged(2));
        let mut bus = Bus::ports();
        bus.insert(0x3f8, 8, low).unwrap();
        bus.insert(0x400, 1, high.clone()).unwrap();
        let mut byte = [0];
        assert!(bus.read(0x3ff, &mut byte));
        assert_eq!(byte, [1]);
        assert!(bus.write(0x400, &[7]));
        assert_eq!(*high.1.lock().unwrap(), [(0, vec![7])]);
    }

    #[test]
    fn unclaimed_and_straddling_accesses_read_all_ones_and_write_nothing() {
        let device = tagged(1);
        let mut bus = Bus::ports();
        bus.insert(0x3f8, 8, device.clone()).unwrap();
        for (address, len) in [(0x3f7, 1), (0x3f7, 2), (0x3fe, 4), (0x400, 1), (0x3f8, 9), (u64::MAX, 8)] {
            let mut data = vec![0; len];
            assert!(!bus.read(address, &mut data), "{address:#x}+{len}");
            assert!(data.iter().all(|byte| *byte == 0xff));
            assert!(!bus.write(address, &data));
        }
        assert!(!bus.read(0x3f8, &mut []));
        assert!(device.1.lock().unwrap().is_empty());
    }

    #[test]
    fn ranges_that_overlap_or_leave_the_bus_are_refused() {
        let mut bus = Bus::ports();
        bus.insert(0x100, 0x10, tagged(1)).unwrap();
        for (start, len) in [(0x100, 0x10), (0xf8, 9), (0x10f, 1), (0, 0x1_0000), (0x104, 2)] {
            assert!(matches!(bus.insert(start, len, tagged(2)), Err(BusError::Overlap { other_start: 0x100, .. })));
        }
        for (start, len) in [(0, 0), (0xffff, 2), (u64::MAX, 2)] {
            assert!(matches!(bus.insert(start, len, tagged(2)), Err(BusError::OutOfRange { .. })));
        }
        bus.insert(0xf0, 0x10, tagged(2)).unwrap();
        bus.insert(0x110, 1, tagged(3)).unwrap();
        Bus::mmio().insert(u64::MAX, 1, tagged(1)).unwrap();
    }

    proptest! {
        #[test]
        fn a_lookup_agrees_with_a_plain_search(
            ranges in prop::collection::vec((0u64..300, 1u64..20), 0..20),
            address in 0u64..330,
            len in 0usize..10,
        ) {
            let mut bus = Bus::mmio();
            let mut taken: Vec<(u64, u64, u8)> = Vec::new();
            for (tag, (start, count)) in ranges.into_iter().enumerate() {
                let tag = u8::try_from(tag).unwrap();
                let free = taken.iter().all(|(first, n, _)| start + count <= *first || first + n <= start);
                prop_assert_eq!(bus.insert(start, count, tagged(tag)).is_ok(), free);
                if free {
                    taken.push((start, count, tag));
                }
            }
            let end = address + len as u64;
            let owner = taken.iter().find(|(first, n, _)| len > 0 && *first <= address && end <= first + n);
            let mut data = vec![0; len];
            prop_assert_eq!(bus.read(address, &mut data), owner.is_some());
            let expected = owner.map_or(0xff, |(_, _, tag)| *tag);
            prop_assert!(data.iter().all(|byte| *byte == expected));
        }
    }
}
