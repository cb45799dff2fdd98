//! The offers of a rank: for each device, the backends that the rank could use, in order of preference.

use super::{BackendMap, DeviceRegistration, Named, Registration, Registry};
use crate::device::Seat;
use crate::types::{DispatchKey, private_use1_name, vendor};
use crate::{Error, Result};

/// How a device is served.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    /// By a backend that has the device's dispatch key.
    Native(&'static Registration),
    /// By a backend for the CPU, through host memory.
    Staged { device: &'static DeviceRegistration, cpu: &'static Registration },
}

impl Choice {
    /// Returns the name of the choice, which ranks exchange to agree on it.
    pub(crate) fn name(&self) -> String {
        match self {
            Choice::Native(r) => r.name.to_owned(),
            Choice::Staged { cpu, .. } => format!("staged({})", cpu.name),
        }
    }
}

/// The offer of a rank for one device.
pub(crate) struct Offer {
    /// `cpu`, `cuda`, `privateuse1` or a vendor's name.
    pub(crate) word: String,
    /// Whether the backend map names a backend for this device, so that the group cannot be made with another backend.
    pub(crate) explicit: bool,
    /// The identity of the rank's own device, if one of the choices is native and the runtime knows an identity.
    pub(crate) identity: Option<String>,
    /// The choices in order of preference, or why there is none.
    pub(crate) choices: Result<Vec<Choice>, String>,
}

/// Returns the dispatch key of a device word (see [`Offer::word`]), and the slot of the vendor that the word names (see
/// [`vendor`]). Words that name no vendor have slot 0, the default slot.
pub(crate) fn key_and_slot(word: &str) -> (DispatchKey, u8) {
    match DispatchKey::ALL.into_iter().find(|k| k.device_word() == word) {
        Some(key) => (key, 0),
        None => (DispatchKey::PrivateUse1, vendor(word)),
    }
}

/// Returns the offers of this rank for every device that is registered. `seat` says which devices belong to the rank.
/// Returns an error if the backend map names an unknown backend or device, or asks for a choice that is not possible.
pub(crate) fn offers(registry: &Registry, map: &BackendMap, seat: &Seat) -> Result<Vec<Offer>> {
    for name in map.names() {
        registry.backend(name)?;
    }
    let mut words: Vec<&str> = ["cpu", "cuda", "privateuse1"].into();
    words.extend(registry.devices().filter(|(d, _)| d.key == DispatchKey::PrivateUse1).map(|(d, _)| d.name));
    // A backend may have buffer types of its own without a registered device. Then the backend's name is the device
    // word.
    for (r, _) in registry.backends().filter(|(r, _)| r.keys.contains(&DispatchKey::PrivateUse1)) {
        if !words.contains(&r.name) {
            words.push(r.name);
        }
    }
    if let Some(word) = map.words().find(|w| !words.contains(w)) {
        words[2] = private_use1_name();
        let what = format!(
            "the backend map names {word:?}, which is not a device of this program; it has {}",
            words.join(", ")
        );
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
        // The map names a backend of this vendor, but for the default slot (`privateuse1`). This backend also serves
        // the vendor's devices.
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
        // An error about the index is ignored here, since the backend reports it.
        let index = seat.index((key, vendor), &*runtime).ok()??;
        // Offers are sent as lines in which these characters are separators, so the identity must not contain them.
        runtime.identity(index).map(|text| text.replace(['\n', '=', '!'], "_"))
    });
    Ok(Offer { word: word.to_owned(), explicit: matches!(named, Named::For(_)), identity, choices })
}

/// Returns how this backend serves this device, or an error that says why it cannot.
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

/// Returns the registered device with this word. For the word `privateuse1`, returns the first device with the dispatch
/// key.
fn device(registry: &Registry, word: &str, key: DispatchKey) -> Option<&'static DeviceRegistration> {
    let default = word == DispatchKey::PrivateUse1.device_word();
    registry.devices().map(|(d, _)| d).find(|d| d.key == key && (default || d.name == word))
}

/// Returns whether a backend belongs to this vendor: it has the vendor's name, or the crate that registers it also
/// registers the vendor's device. A backend of another vendor serves this vendor's devices only if the backend map
/// names that backend.
fn made_for(registry: &Registry, word: &str, backend: &Registration) -> bool {
    let source = |name: &str| registry.backends().find(|(r, _)| r.name == name).map(|(_, source)| source);
    let device = registry.devices().find(|(d, _)| d.name == word).map(|(_, source)| source);
    backend.name == word || (device.is_some() && device == source(backend.name))
}

/// Returns all choices that are possible for this device: first backends that have its dispatch key, then staging.
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
                // A backend that has the key was added above.
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
