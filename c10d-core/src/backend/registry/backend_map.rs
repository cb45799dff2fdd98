//! Backend maps, by which the user chooses the backend of each device.

use crate::types::DispatchKey;
use crate::types::private_use1_name;
use crate::{Error, Result};

/// The choice of the backend for each device. A map is parsed from a text in one of three forms:
/// - a list such as `"cpu:gloo-like,cuda:nccl"`;
/// - the name of one backend, which then serves every device that it can serve;
/// - an empty text: each device gets its preferred backend.
///
/// The devices are `cpu`, `cuda`, `privateuse1` and the names of vendors' devices. `privateuse1` means the default
/// slot: PrivateUse1 devices without the name of a vendor. [`rename_private_use1`](crate::device::rename_private_use1)
/// gives this slot another name, which maps can then use. A map may also name a CPU backend for a device that is not
/// the CPU. The buffers of that device are then staged through host memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendMap {
    one: Option<String>,
    entries: Vec<(String, String)>,
}

impl std::str::FromStr for BackendMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<BackendMap> {
        let text = text.trim();
        let mut map = BackendMap::default();
        if text.is_empty() {
            return Ok(map);
        }
        if !text.contains(':') {
            if text.contains(',') {
                return Err(bad(text, "a list needs a device before each name"));
            }
            map.one = Some(text.to_owned());
            return Ok(map);
        }
        for part in text.split(',') {
            let (device, name) = part.split_once(':').ok_or_else(|| bad(text, &format!("{part:?} has no colon")))?;
            let (device, name) = (device.trim(), name.trim());
            if device.is_empty() || name.is_empty() || name.contains(':') {
                return Err(bad(text, &format!("{part:?} is not a device and a backend")));
            }
            // Ranks may have different names for the default slot, so the map stores the standard name.
            let word = if device == private_use1_name() { DispatchKey::PrivateUse1.device_word() } else { device };
            if map.entries.iter().any(|(d, _)| d == word) {
                return Err(bad(text, &format!("{device:?} is listed twice")));
            }
            map.entries.push((word.to_owned(), name.to_owned()));
        }
        Ok(map)
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::invalid(format!("backend map {text:?}: {why}; write e.g. \"cpu:gloo-like,cuda:nccl\""))
}

impl BackendMap {
    /// Returns the entry of the map for this device.
    pub(crate) fn name(&self, word: &str) -> Named<'_> {
        match self.entries.iter().find(|(d, _)| d == word) {
            Some((_, name)) => Named::For(name),
            None if !self.entries.is_empty() => Named::No,
            None => self.one.as_deref().map_or(Named::Any, Named::All),
        }
    }

    /// Returns every name of a backend in the map.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.one.iter().chain(self.entries.iter().map(|(_, n)| n)).map(String::as_str)
    }

    /// Returns every device in the map.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(d, _)| d.as_str())
    }
}

/// The entry of a map for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// This backend for this device.
    For(&'a str),
    /// This backend for every device that it can serve.
    All(&'a str),
    /// The preferred backend, since the map is empty.
    Any,
    /// No backend, since the map has entries for other devices, but not for this device.
    No,
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn valid_maps_are_parsed_and_invalid_maps_are_rejected() {
        let map = BackendMap::from_str("").unwrap();
        assert!(map.names().next().is_none() && map.name("cpu") == Named::Any);
        let map = BackendMap::from_str("gloo-like").unwrap();
        assert_eq!((map.names().collect::<Vec<_>>(), map.name("cuda")), (vec!["gloo-like"], Named::All("gloo-like")));
        let map = BackendMap::from_str("cpu:gloo-like, acme:nccl").unwrap();
        assert_eq!(map.names().collect::<Vec<_>>(), ["gloo-like", "nccl"]);
        assert_eq!(map.words().collect::<Vec<_>>(), ["cpu", "acme"]);
        assert_eq!((map.name("acme"), map.name("cuda")), (Named::For("nccl"), Named::No));
        for bad in ["a,b", "cpu:a,cpu:b", "cpu:", "cpu:a,b", ":a", "cpu:a:b"] {
            let e = BackendMap::from_str(bad).unwrap_err();
            assert!(e.to_string().contains(bad), "{e}");
        }
    }
}
