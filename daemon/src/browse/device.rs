//! On which machine rows were written, as far as the file tells.

use serde::Serialize;

/// A machine, and how many rows of something came from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The name that the machine gives itself; null where it gave none.
    pub hardware_id: Option<String>,
    /// Written into this file, and not pulled.
    pub here: bool,
    pub rows: u64,
}

impl Device {
    pub(super) fn here(rows: u64) -> Device {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Device {
            hardware_id: Some(name),
            here: true,
            rows,
        }
    }

    /// `hardware_id` as `sync_messages` has it for a pulled row.
    pub(super) fn elsewhere(hardware_id: String, rows: u64) -> Device {
        Device {
            hardware_id: Some(hardware_id).filter(|name| !name.is_empty()),
            here: false,
            rows,
        }
    }

    /// For people: `here`, or the name of another machine.
    pub fn name(&self) -> &str {
        match (&self.hardware_id, self.here) {
            (_, true) => "here",
            (Some(name), false) => name,
            (None, false) => "elsewhere",
        }
    }
}

/// `here`, `elsewhere`, or a machine's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceFilter {
    Here,
    Elsewhere,
    Named(String),
}

impl DeviceFilter {
    pub fn parse(text: &str) -> DeviceFilter {
        match text {
            "here" => DeviceFilter::Here,
            "elsewhere" => DeviceFilter::Elsewhere,
            name => DeviceFilter::Named(name.to_owned()),
        }
    }

    pub(super) fn matches(&self, device: &Device) -> bool {
        match self {
            DeviceFilter::Here => device.here,
            DeviceFilter::Elsewhere => !device.here,
            DeviceFilter::Named(name) => {
                let own = device.hardware_id.as_deref();
                own.is_some_and(|own| own.eq_ignore_ascii_case(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_place_and_by_name() {
        let (here, there) = (Device::here(1), Device::elsewhere("laptop".into(), 1));
        let nameless = Device::elsewhere(String::new(), 1);
        for (filter, expected) in [
            ("here", [true, false, false]),
            ("elsewhere", [false, true, true]),
            ("Laptop", [false, true, false]),
            ("desk", [false, false, false]),
        ] {
            let filter = DeviceFilter::parse(filter);
            assert_eq!(
                [&here, &there, &nameless].map(|device| filter.matches(device)),
                expected,
                "{filter:?}"
            );
        }
        assert_eq!(
            [here.name(), there.name(), nameless.name()],
            ["here", "laptop", "elsewhere"]
        );
    }
}
