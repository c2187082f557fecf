//! Which pages remain: a bitmap over guest RAM, one bit for each 4 KiB page.
//!
//! Pages are numbered densely over the RAM ranges of a machine, in ascending order of address and
//! without the hole below 4 GiB: page 0 is the first page of the first range. The unit of work is
//! the *chunk*: 512 pages, 2 MiB.

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Pages in a chunk.
pub const CHUNK_PAGES: u64 = 512;
/// 64-bit words in the bitmap of a chunk.
pub const CHUNK_WORDS: usize = 8;

/// A set of pages.
#[derive(Clone, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    pages: u64,
}

impl PageBitmap {
    /// An empty set over `pages` pages.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        PageBitmap { words: vec![0; pages.div_ceil(64) as usize], pages }
    }

    /// The set of all pages.
    #[must_use]
    pub fn full(pages: u64) -> Self {
        let mut all = Self::new(pages);
        all.set_range(0, pages);
        all
    }

    /// How many pages the machine has, set or not.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many chunks cover all pages.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.pages.div_ceil(CHUNK_PAGES)
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// Whether `page` is in the set; a page outside of the machine never is.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        page < self.pages && self.words[(page / 64) as usize] >> (page % 64) & 1 == 1
    }

    /// Adds `page`.
    ///
    /// # Panics
    /// When `page` lies outside of the machine.
    pub fn set(&mut self, page: u64) {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        self.words[(page / 64) as usize] |= 1 << (page % 64);
    }

    /// Removes `page`.
    pub fn clear(&mut self, page: u64) {
        if page < self.pages {
            self.words[(page / 64) as usize] &= !(1 << (page % 64));
        }
    }

    /// Adds `count` pages from `first` on.
    ///
    /// # Panics
    /// When the range lies outside of the machine.
    pub fn set_range(&mut self, first: u64, count: u64) {
        assert!(
            first.checked_add(count).is_some_and(|end| end <= self.pages),
            "pages {first}+{count} of {}",
            self.pages
        );
        let mut page = first;
        let end = first + count;
        while page < end {
            let bit = page % 64;
            let take = (64 - bit).min(end - page);
            let mask = if take == 64 { u64::MAX } else { ((1 << take) - 1) << bit };
            self.words[(page / 64) as usize] |= mask;
            page += take;
        }
    }

    /// The bitmap as words, least significant bit first; bits past the last page are zero.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds the pages of `words`, which begin at page `first` (a multiple of 64). Bits past the
    /// last page are ignored.
    ///
    /// # Panics
    /// When `first` is no multiple of 64.
    pub fn or_words(&mut self, first: u64, words: &[u64]) {
        assert_eq!(first % 64, 0, "first page {first} is not on a word");
        let at = (first / 64) as usize;
        for (own, other) in self.words.iter_mut().skip(at).zip(words) {
            *own |= other;
        }
        self.trim();
    }

    /// Removes the pages of `words`, which begin at page `first` (a multiple of 64).
    ///
    /// # Panics
    /// When `first` is no multiple of 64.
    pub fn clear_words(&mut self, first: u64, words: &[u64]) {
        assert_eq!(first % 64, 0, "first page {first} is not on a word");
        let at = (first / 64) as usize;
        for (own, other) in self.words.iter_mut().skip(at).zip(words) {
            *own &= !other;
        }
    }

    /// The words of one chunk; words past the end are zero.
    #[must_use]
    pub fn chunk(&self, chunk: u64) -> [u64; CHUNK_WORDS] {
        let mut out = [0; CHUNK_WORDS];
        let at = (chunk as usize) * CHUNK_WORDS;
        for (to, from) in out.iter_mut().zip(self.words.iter().skip(at)) {
            *to = *from;
        }
        out
    }

    /// The set as runs: gaps and lengths in turn, each a little-endian base-128 number (LEB128).
    /// An empty set is no bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut end = 0;
        for (first, len) in self.runs() {
            put_varint(&mut out, first - end);
            put_varint(&mut out, len);
            end = first + len;
        }
        out
    }

    /// Reads what [`PageBitmap::encode`] wrote for a machine of `pages` pages.
    ///
    /// # Errors
    /// A number that is cut off or too long, an empty run, or a run outside of the machine.
    pub fn decode(mut bytes: &[u8], pages: u64) -> Result<Self, BitmapError> {
        let mut set = PageBitmap::new(pages);
        let mut end = 0u64;
        while !bytes.is_empty() {
            let gap = take_varint(&mut bytes).ok_or(BitmapError::Number)?;
            let len = take_varint(&mut bytes).ok_or(BitmapError::Number)?;
            let first = end.checked_add(gap).ok_or(BitmapError::Outside)?;
            end = first.checked_add(len).filter(|end| *end <= pages).ok_or(BitmapError::Outside)?;
            if len == 0 {
                return Err(BitmapError::EmptyRun);
            }
            set.set_range(first, len);
        }
        Ok(set)
    }

    /// The runs of the set, as (first page, pages), in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.next_page(at, true)?;
            let end = self.next_page(first, false).unwrap_or(self.pages);
            at = end;
            Some((first, end - first))
        })
    }

    /// Removes every page of `other`.
    pub fn subtract(&mut self, other: &PageBitmap) {
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            *own &= !other;
        }
    }

    fn next_page(&self, from: u64, set: bool) -> Option<u64> {
        let mut index = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        while let Some(word) = self.words.get(index) {
            let word = if set { *word } else { !*word } & mask;
            if word != 0 {
                let page = index as u64 * 64 + u64::from(word.trailing_zeros());
                return (page < self.pages).then_some(page);
            }
            mask = u64::MAX;
            index += 1;
        }
        None
    }

    fn trim(&mut self) {
        let used = self.pages % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }
}

/// Why bytes are not a set of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// A number ends early or has more than 64 bits.
    #[error("the page bitmap holds a number that is cut off or too long")]
    Number,
    /// A run of no pages.
    #[error("the page bitmap holds an empty run")]
    EmptyRun,
    /// A run past the last page.
    #[error("the page bitmap names pages outside of guest memory")]
    Outside,
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl std::fmt::Debug for PageBitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBitmap({} of {})", self.count(), self.pages)
    }
}

/// The runs of set bits in the bitmap of a chunk, as (first bit, length).
pub fn runs(words: &[u64; CHUNK_WORDS]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut at = 0u32;
    std::iter::from_fn(move || {
        let first = next_bit(words, at, true)?;
        let end = next_bit(words, first, false).unwrap_or(CHUNK_PAGES as u32);
        at = end;
        Some((first, end - first))
    })
}

fn next_bit(words: &[u64; CHUNK_WORDS], from: u32, set: bool) -> Option<u32> {
    let mut index = (from / 64) as usize;
    let mut mask = u64::MAX.checked_shl(from % 64).unwrap_or(0);
    while index < CHUNK_WORDS {
        let word = if set { words[index] } else { !words[index] } & mask;
        if word != 0 {
            return Some(index as u32 * 64 + word.trailing_zeros());
        }
        mask = u64::MAX;
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_cover_exactly_the_set_bits(words in any::<[u64; CHUNK_WORDS]>()) {
            let mut again = [0u64; CHUNK_WORDS];
            let mut last_end = None;
            for (first, len) in runs(&words) {
                prop_assert!(len > 0);
                prop_assert!(last_end.is_none_or(|end| first > end));
                for bit in first..first + len {
                    again[(bit / 64) as usize] |= 1 << (bit % 64);
                }
                last_end = Some(first + len);
            }
            prop_assert_eq!(again, words);
        }

        #[test]
        fn a_range_sets_its_pages_and_no_other(pages in 1u64..2000, a in 0u64..2000, b in 0u64..2000) {
            let (first, end) = (a.min(b).min(pages), a.max(b).min(pages));
            let mut bitmap = PageBitmap::new(pages);
            bitmap.set_range(first, end - first);
            prop_assert_eq!(bitmap.count(), end - first);
            for page in 0..pages {
                prop_assert_eq!(bitmap.contains(page), (first..end).contains(&page));
            }
        }
    }

    proptest! {
        #[test]
        fn a_bitmap_reads_back_from_its_runs(words in proptest::collection::vec(any::<u64>(), 0..20), less in 0u64..64) {
            let pages = (words.len() as u64 * 64).saturating_sub(less);
            let mut bitmap = PageBitmap::new(pages);
            bitmap.or_words(0, &words);
            prop_assert_eq!(PageBitmap::decode(&bitmap.encode(), pages), Ok(bitmap.clone()));
            prop_assert_eq!(bitmap.runs().map(|(_, len)| len).sum::<u64>(), bitmap.count());
        }

        #[test]
        fn arbitrary_bytes_are_a_bitmap_or_an_error(bytes: Vec<u8>, pages in 0u64..5000) {
            if let Ok(bitmap) = PageBitmap::decode(&bytes, pages) {
                prop_assert_eq!(bitmap.pages(), pages);
            }
        }
    }

    #[test]
    fn the_whole_of_a_large_machine_is_a_few_bytes() {
        let full = PageBitmap::full(4 << 20);
        assert!(full.encode().len() <= 5);
        let mut less = full.clone();
        less.subtract(&full);
        assert!(less.is_empty() && less.encode().is_empty());
        assert_eq!(PageBitmap::decode(&[0, 1], 0), Err(BitmapError::Outside));
        assert_eq!(PageBitmap::decode(&[0x80], 10), Err(BitmapError::Number));
    }

    #[test]
    fn words_past_the_last_page_are_ignored() {
        let mut bitmap = PageBitmap::new(70);
        bitmap.or_words(64, &[u64::MAX, u64::MAX]);
        assert_eq!(bitmap.count(), 6);
    }
}
