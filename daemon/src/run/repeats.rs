//! A failure that lasts is told at its 1st, 10th, 100th, … time and at its end: a line a second would drown the log, and
//! fill the disk whose fullness it complains of.

/// What one source of failures said last, and how often in a row.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    text: String,
    times: u64,
}

impl Repeats {
    /// It failed. How often it has said this in a row, if that is worth a line.
    pub(super) fn failed(&mut self, text: &str) -> Option<u64> {
        if self.text != text {
            *self = Repeats {
                text: text.to_owned(),
                times: 0,
            };
        }
        self.times += 1;
        (self.times == 10_u64.pow(self.times.ilog10())).then_some(self.times)
    }

    /// It works. How often it had said the last thing before, if it had.
    pub(super) fn ended(&mut self) -> Option<u64> {
        let times = std::mem::take(self).times;
        (times > 0).then_some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_failure_is_told_ever_more_rarely_a_new_one_at_once_and_the_end_once() {
        let mut repeats = Repeats::default();
        let told: Vec<u64> = (0..5_000).filter_map(|_| repeats.failed("disk full")).collect();
        assert_eq!(told, [1, 10, 100, 1_000]);
        assert_eq!(repeats.failed("file locked"), Some(1));
        assert_eq!(repeats.failed("file locked"), None);
        assert_eq!(repeats.ended(), Some(2));
        assert_eq!(repeats.ended(), None);
        assert_eq!(repeats.failed("file locked"), Some(1));
    }
}
