//! Times on their way between PostgreSQL, which keeps microseconds, and texts of RFC 3339.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// RFC 3339 in UTC with microseconds, as PostgreSQL keeps them.
pub fn to_text(time: SystemTime) -> String {
    // Only a time thousands of years away is out of range, and PostgreSQL's clock does not show one.
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// What a writer's text says, if it is a time: RFC 3339, or without a zone (as SQLite's CURRENT_TIMESTAMP), which
/// counts as UTC. Only years that PostgreSQL's own range surely holds.
pub fn from_text(text: &str) -> Option<SystemTime> {
    let time = text
        .parse::<Timestamp>()
        .or_else(|_| {
            text.parse::<DateTime>()
                .and_then(|time| Offset::UTC.to_timestamp(time))
        })
        .ok()?;
    let in_range = (1..=9999).contains(&Offset::UTC.to_datetime(time).year());
    SystemTime::try_from(time).ok().filter(|_| in_range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writers_time_is_read_with_and_without_a_zone_and_anything_else_is_none() {
        let read = |text| from_text(text).map(to_text);
        let noon = Some("2026-11-24T12:00:00.500000Z".to_owned());
        assert_eq!(read("2026-11-24T12:00:00.5Z"), noon);
        assert_eq!(read("2026-11-24T14:00:00.5+02:00"), noon);
        assert_eq!(read("2026-11-24 12:00:00.5"), noon);
        for none in ["", "yesterday", "1764000000", "-000044-03-15T00:00:00Z"] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
