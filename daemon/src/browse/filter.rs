//! What lists are filtered by.

use globset::{GlobBuilder, GlobMatcher};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::projects::Place;

/// A moment, given as an age or as a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub Timestamp);

impl Since {
    /// `2d`, `12h`, `2 weeks`, `2026-11-01` (in the zone of this machine) or a time of RFC 3339.
    pub fn parse(text: &str, now: Timestamp, zone: TimeZone) -> Result<Since, String> {
        let refused = || "expected an age such as 2d or 12h, or a date such as 2026-11-01".to_owned();
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Since(at));
        }
        if let Ok(date) = text.parse::<Date>() {
            let start = date.to_zoned_datetime(zone).map_err(|_| refused())?;
            return Ok(Since(start.timestamp()));
        }
        let age: Span = text.parse().map_err(|_| refused())?;
        // An age counts backwards, with or without a minus.
        let start = now
            .to_zoned_datetime(zone)
            .checked_sub(age.abs())
            .map_err(|_| refused())?;
        Ok(Since(start.timestamp()))
    }
}

/// A glob over the names by which a project goes: as tasks name it, and as its folder is called.
#[derive(Clone, Debug)]
pub struct ProjectGlob(GlobMatcher);

impl ProjectGlob {
    pub fn parse(text: &str) -> Result<ProjectGlob, String> {
        let glob = GlobBuilder::new(text).case_insensitive(true).build();
        let glob = glob.map_err(|error| format!("{text:?} is no glob: {}", error.kind()))?;
        Ok(ProjectGlob(glob.compile_matcher()))
    }

    pub(super) fn matches(&self, place: &Place) -> bool {
        let names = [Some(place.name()), place.own.as_deref(), place.folder.as_deref()];
        names.into_iter().flatten().any(|name| self.0.is_match(name))
    }
}

/// When something happened, as the source spelt it.
pub fn moment(text: Option<&str>) -> Option<Timestamp> {
    let text = text?;
    text.parse()
        .ok()
        // SQLite's own spelling, in UTC.
        .or_else(|| format!("{}Z", text.replacen(' ', "T", 1)).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_given_as_an_age_or_as_a_date() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, expected) in [
            ("2d", "2026-11-22T12:00:00Z"),
            ("12h", "2026-11-24T00:00:00Z"),
            ("1 week", "2026-11-17T12:00:00Z"),
            ("2026-11-01", "2026-10-31T23:00:00Z"),
            ("2026-11-01T10:00:00Z", "2026-11-01T10:00:00Z"),
        ] {
            let since = Since::parse(text, now, zone.clone()).unwrap();
            assert_eq!(since.0.to_string(), expected, "{text}");
        }
        for bad in ["", "soon", "2", "2026-13-01"] {
            assert!(Since::parse(bad, now, zone.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_project_is_found_by_its_name_and_by_its_folder() {
        let place = Place {
            project: Some("acme/Harbour".into()),
            own: None,
            folder: Some("-home-ada-harbour".into()),
        };
        for (glob, expected) in [
            ("acme/*", true),
            ("*harbour", true),
            ("-home-ada-*", true),
            ("harbour", false),
        ] {
            assert_eq!(
                ProjectGlob::parse(glob).unwrap().matches(&place),
                expected,
                "{glob}"
            );
        }
        assert!(ProjectGlob::parse("a{").is_err());
    }

    #[test]
    fn times_are_read_in_both_spellings() {
        let expected = Some("2026-11-24T12:00:00Z".parse().unwrap());
        assert_eq!(moment(Some("2026-11-24T12:00:00.000Z")), expected);
        assert_eq!(moment(Some("2026-11-24 12:00:00")), expected);
        assert_eq!(moment(Some("yesterday")), None);
    }
}
