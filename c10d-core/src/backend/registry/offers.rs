//! The backends that this rank could use for each device, in order of preference.

use super::{BackendMap, DeviceRegistration, Named, Registration, Registry};
use crate::device::Seat;
use crate::types::{DispatchKey, private_use1_name, vendor};
use crate::{Error, Result};

/// How a device is served.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    /// By a backend that has the device's key.
    Native(&'static Registration),
    /// By a backend for the CPU, through host memory.
    Staged { device: &'static DeviceRegistration, cpu: &'static Registration },
}

impl Choice {
    /// The name under which ranks agree on it.
    pub(crate) fn name(&self) -> String {
        match self {
            Choice::Native(r) => r.name.to_owned(),
            Choice::Staged { cpu, .. } => format!("staged({})", cpu.name),
        }
    }
}

/// What a rank offers for one device.
pub(crate) struct Offer {
    /// `cpu`, `cuda`, `privateuse1` or a vendor's name.
    pub(crate) word: String,
    /// Whether the user asked for exactly this choice, so that the group cannot be made without it.
    pub(crate) explicit: bool,
    /// The identity of the rank's own device, if a backend of that device might use it.
    pub(crate) identity: Option<String>,
    /// In order of preference; `Err`: why there is none.
    pub(crate) choices: Result<Vec<Choice>, String>,
}

/// The key and the vendor's slot of a device word.
pub(crate) fn key_and_slot(word: &str) -> (DispatchKey, u8) {
    match DispatchKey::ALL.into_iter().find(|k| k.device_word() == word) {
        Some(key) => (key, 0),
        None => (DispatchKey::PrivateUse1, vendor(word)),
    }
}

/// The offers of this rank for every device that it knows; `seat` says which devices are its own. It is an error if the
/// map asks for something impossible.
pub(crate) fn offers(registry: &Registry, map: &BackendMap, seat: &Seat) -> Result<Vec<Offer>> {
    for name in map.names() {
        registry.backend(name)?;
    }
    let mut words: Vec<&str> = ["cpu", "cuda", "privateuse1"].into();
    words.extend(registry.devices().filter(|(d, _)| d.key == DispatchKey::PrivateUse1).map(|(d, _)| d.name));
    // A backend may have its own buffer types without a device runtime.
    for (r, _) in registry.backends().filter(|(r, _)| r.keys.contains(&DispatchKey::PrivateUse1)) {
        if !words.contains(&r.name) {
            words.push(r.name);
        }
    }
    if let Some(word) = map.words().find(|w| !words.contains(w)) {
        words[2] = private_use1_name();
        let what = format!("the backend map names {word:?}, which is no device; known here: {}", words.join(", "));
        return Err(Error::invalid(what));
    }
    words.into_iter().map(|word| offer(registry, map, word, seat)).collect()
}

fn offer(registry: &Registry, map: &BackendMap, word: &str, seat: &Seat) -> Result<Offer> {
    let (key, vendor) = key_and_slot(word);
    let mut named = map.name(word);
    if let (Named::No, Named::For(name)) = (named, map.name(key.device_word()))
        && vendor != 0
        && (name == word || made_for(registry, word, registry.backend(name)?))
    {
        // A map that names this vendor for the default slot means the vendor's devices.
        named = Named::All(name);
    }
    let choices = match named {
        Named::For(name) => Ok(vec![serve(registry, word, key, registry.backend(name)?)?]),
        Named::All(name) => serve(registry, word, key, registry.backend(name)?).map(|c| vec![c]),
        Named::Any => preferred(registry, word, key),
        Named::No => Err(Error::unsupported(format!("the backend map of this group has no entry for {word}"))),
    };
    let choices = choices.map_err(|e| e.report().what.clone());
    let native = choices.iter().flatten().any(|c| matches!(c, Choice::Native(_)));
    let identity = device(registry, word, key).filter(|_| native).and_then(|device| {
        let runtime = registry.device(device.name).ok()?;
        // If the index is not known, the backend itself reports why.
        let index = seat.index((key, vendor), &*runtime).ok()??;
        // The offer has one entry per line, so the identity must not contain separators.
        runtime.identity(index).map(|text| text.replace(['\n', '=', '!'], "_"))
    });
    Ok(Offer { word: word.to_owned(), explicit: matches!(named, Named::For(_)), identity, choices })
}

/// How this backend serves this device, if it can.
fn serve(registry: &Registry, word: &str, key: DispatchKey, backend: &'static Registration) -> Result<Choice> {
    if backend.keys.contains(&key) {
        return Ok(Choice::Native(backend));
    }
    let no = |why: String| Error::unsupported(format!("backend {:?} does not serve {key}{why}", backend.name));
    if !backend.keys.contains(&DispatchKey::Cpu) {
        return Err(no(String::new()));
    }
    let device = device(registry, word, key).ok_or_else(|| no(format!(", and no device {word} is linked")))?;
    registry.device(device.name).map_err(|e| no(format!(" by staging: {}", e.report().what)))?;
    Ok(Choice::Staged { device, cpu: backend })
}

/// The device of this word; the default slot has the first that there is.
fn device(registry: &Registry, word: &str, key: DispatchKey) -> Option<&'static DeviceRegistration> {
    let default = word == DispatchKey::PrivateUse1.device_word();
    registry.devices().map(|(d, _)| d).find(|d| d.key == key && (default || d.name == word))
}

/// Whether a backend belongs to this vendor. A backend that is made for one vendor's devices does not serve another's.
fn made_for(registry: &Registry, word: &str, backend: &Registration) -> bool {
    let source = |name: &str| registry.backends().find(|(r, _)| r.name == name).map(|(_, source)| source);
    let device = registry.devices().find(|(d, _)| d.name == word).map(|(_, source)| source);
    backend.name == word || (device.is_some() && device == source(backend.name))
}

/// All usable ways to serve this device: first the backends for it, then staging.
fn preferred(registry: &Registry, word: &str, key: DispatchKey) -> Result<Vec<Choice>> {
    let mut refusals = Vec::new();
    let mut choices = Vec::new();
    let fits = |r: &Registration| r.keys.contains(&key) && (key.device_word() == word || made_for(registry, word, r));
    for (r, _) in registry.backends().filter(|(r, _)| fits(r)) {
        match (r.probe)() {
            Ok(()) => choices.push(Choice::Native(r)),
            Err(e) => refusals.push(format!("{}: {}", r.name, e.report().what)),
        }
    }
    if key != DispatchKey::Cpu && device(registry, word, key).is_some() {
        let cpus = registry.backends().filter(|(r, _)| r.keys.contains(&DispatchKey::Cpu) && (r.probe)().is_ok());
        for (cpu, _) in cpus {
            match serve(registry, word, key, cpu) {
                // A backend that has the key itself was handled above.
                Ok(choice @ Choice::Staged { .. }) => choices.push(choice),
                Ok(Choice::Native(_)) => {}
                Err(e) => refusals.push(e.report().what.clone()),
            }
        }
    }
    if choices.is_empty() {
        let why = if refusals.is_empty() { "no backend for it is linked".to_owned() } else { refusals.join("; ") };
        let of = if key.device_word() == word { key.to_string() } else { format!("{key} device {word}") };
        return Err(Error::unsupported(format!("nothing serves {of}: {why}")));
    }
    Ok(choices)
}
