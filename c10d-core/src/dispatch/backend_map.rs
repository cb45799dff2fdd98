//! Which backend serves which device.

use crate::registry::{Registration, Registry};
use crate::types::DispatchKey;
use crate::{Error, Result};

/// Which backend serves which device: `"cpu:gloo-like,cuda:nccl"`, or one name for every device that it serves, or empty
/// for the preferred one of each device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendMap {
    one: Option<String>,
    entries: Vec<(&'static str, String)>,
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
            let key = DispatchKey::ALL
                .into_iter()
                .find(|k| k.device_word() == device.trim())
                .ok_or_else(|| bad(text, &format!("{device:?} is not one of cpu, cuda, privateuse1")))?;
            if map.entries.iter().any(|(d, _)| *d == key.device_word()) {
                return Err(bad(text, &format!("{device:?} comes twice")));
            }
            if name.trim().is_empty() {
                return Err(bad(text, &format!("{device:?} has no backend")));
            }
            map.entries.push((key.device_word(), name.trim().to_owned()));
        }
        Ok(map)
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::invalid(format!("backend map {text:?}: {why}; write e.g. \"cpu:gloo-like,cuda:nccl\""))
}

impl BackendMap {
    /// The backend for this key, or why there is none.
    pub fn choose(&self, registry: &Registry, key: DispatchKey) -> Result<&'static Registration> {
        let name = match &self.one {
            Some(name) => name,
            None if self.entries.is_empty() => return registry.preferred(key),
            None => match self.entries.iter().find(|(d, _)| *d == key.device_word()) {
                Some((_, name)) => name,
                None => {
                    let what = format!("the backend map of this group has no entry for {}", key.device_word());
                    return Err(Error::unsupported(what));
                }
            },
        };
        let registration = registry.backend(name)?;
        if !registration.keys.contains(&key.dense()) {
            return Err(Error::unsupported(format!("backend {name:?} does not serve {}", key.dense())));
        }
        Ok(registration)
    }

    /// Every name that the map mentions, so that a misspelt one is noticed.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.one.iter().chain(self.entries.iter().map(|(_, n)| n)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_refuses() {
        assert!(BackendMap::from_str("").unwrap().names().next().is_none());
        assert_eq!(BackendMap::from_str("gloo-like").unwrap().names().collect::<Vec<_>>(), ["gloo-like"]);
        let map = BackendMap::from_str("cpu:gloo-like, cuda:nccl").unwrap();
        assert_eq!(map.names().collect::<Vec<_>>(), ["gloo-like", "nccl"]);
        for bad in ["a,b", "tpu:x", "cpu:a,cpu:b", "cpu:", "cpu:a,b"] {
            let e = BackendMap::from_str(bad).unwrap_err();
            assert!(e.to_string().contains(bad), "{e}");
        }
    }
    use std::str::FromStr;
}
