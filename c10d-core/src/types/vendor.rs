//! The names of PrivateUse1 devices, and the slots by which spans distinguish vendors.

use std::sync::OnceLock;

use crate::sync::Mutex;

/// The vendors' names. The name at index `i` has slot `i + 1`.
static VENDORS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
static DEFAULT: OnceLock<String> = OnceLock::new();

/// Returns the slot of a vendor's devices in this process, the same at every call with this name. The 256th and later
/// names get slot 0, the default slot. The group's backend for PrivateUse1 handles buffers with slot 0.
pub fn vendor(name: &str) -> u8 {
    let mut vendors = VENDORS.lock();
    let at = vendors.iter().position(|v| *v == name).unwrap_or_else(|| {
        if vendors.len() < usize::from(u8::MAX) {
            vendors.push(String::leak(name.to_owned()));
        }
        vendors.iter().position(|v| *v == name).unwrap_or(usize::MAX)
    });
    u8::try_from(at.wrapping_add(1)).unwrap_or(0)
}

/// Returns the name of the vendor that has this slot, if there is one.
pub(crate) fn vendor_name(slot: u8) -> Option<&'static str> {
    let at = usize::from(slot).checked_sub(1)?;
    VENDORS.lock().get(at).copied()
}

/// Sets the name of the default slot, once; until then it is `privateuse1`. A second call with the same name does
/// nothing. The error says why the name is not accepted.
pub(crate) fn rename_default(name: &str) -> Result<(), String> {
    let taken = ["", "cpu", "cuda", "privateuse1"].contains(&name) || name.contains([':', ',']);
    if taken || VENDORS.lock().contains(&name) {
        return Err(format!(
            "PrivateUse1 cannot be called {name:?}: the name is taken, empty, or has a colon or comma"
        ));
    }
    let now = DEFAULT.get_or_init(|| name.to_owned());
    if now == name {
        return Ok(());
    }
    Err(format!("PrivateUse1 is called {now:?} in this process already; it can be renamed only once"))
}

/// Returns the name of the default slot.
pub(crate) fn private_use1_name() -> &'static str {
    DEFAULT.get().map_or("privateuse1", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_slots_and_the_default_is_renamed_once() {
        let (a, b) = (vendor("slot-a"), vendor("slot-b"));
        assert!(a != b && a != 0 && b != 0 && vendor("slot-a") == a);
        assert_eq!(vendor_name(a), Some("slot-a"));
        assert_eq!(vendor_name(0), None);
        for bad in ["", "cpu", "a:b", "slot-a"] {
            assert!(rename_default(bad).unwrap_err().contains(bad));
        }
        assert_eq!(private_use1_name(), "privateuse1");
        rename_default("npu").unwrap();
        rename_default("npu").unwrap();
        assert!(rename_default("xpu").unwrap_err().contains("npu"));
        assert_eq!(private_use1_name(), "npu");
    }
}
