//! The list of plugins that are allowed or denied.

use std::cell::RefCell;

/// A list of names: `"a,b"` allows only these, `"^a,b"` all except these.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    deny: bool,
    names: Vec<String>,
    met: RefCell<Vec<bool>>,
}

impl Filter {
    pub(super) fn parse(text: &str) -> Filter {
        let text = text.trim();
        let (deny, list) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let names: Vec<String> = list.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
        Filter { deny, met: RefCell::new(vec![false; names.len()]), names }
    }

    pub(super) fn admits(&self, name: &str) -> bool {
        let at = self.names.iter().position(|n| n == name);
        if let Some(at) = at {
            self.met.borrow_mut()[at] = true;
        }
        if self.names.is_empty() || self.deny { at.is_none() } else { at.is_some() }
    }

    /// Returns the listed names that no plugin had.
    pub(super) fn unmet(&self) -> Vec<String> {
        let met = self.met.borrow();
        self.names.iter().zip(met.iter()).filter(|(_, met)| !**met).map(|(n, _)| n.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_allows_denies_and_lists_unmatched_names() {
        let allow = Filter::parse("acme, other");
        assert!(allow.admits("acme") && !allow.admits("third"));
        assert_eq!(allow.unmet(), ["other"]);
        let deny = Filter::parse("^acme");
        assert!(!deny.admits("acme") && deny.admits("third"));
        assert!(deny.unmet().is_empty());
        assert!(Filter::parse("").admits("any") && Filter::parse("^").admits("any"));
    }
}
