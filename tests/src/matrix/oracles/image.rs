//! **image**: the guest works on the file that it began with, whatever its path names by now.

use super::Verdict;
use crate::matrix::evidence::Evidence;

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    match &evidence.image {
        None => Verdict::None("nobody said that the guest runs".into()),
        Some(Ok(())) => Verdict::Pass("the guest's process has the image open that the guest began with".into()),
        Some(Err(why)) => Verdict::Fail(why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::moved;

    #[test]
    fn another_file_is_caught() {
        let mut evidence = moved();
        assert!(matches!(judge(&evidence), Verdict::None(_)));
        evidence.image = Some(Ok(()));
        assert!(matches!(judge(&evidence), Verdict::Pass(_)));
        evidence.image = Some(Err("destination has another file open".into()));
        assert!(judge(&evidence).is_fail());
    }
}
