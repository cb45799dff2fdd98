//! Accounts for the memory of each client, so that no client can fill the store.
//!
//! `Limits` has the formulas for the shares. There is always room for another client, but each further client gets
//! less.

use std::collections::HashMap;
use std::net::IpAddr;

/// The server's number of a connection.
pub(crate) type ClientId = usize;
/// An address for quotas: an IPv4 address, or an IPv6 network with a 64-bit prefix, in which one host can use any
/// address.
pub(crate) type Home = u64;

pub(super) fn home(ip: IpAddr) -> Home {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amount {
    pub(super) bytes: usize,
    pub(super) keys: usize,
}

impl Amount {
    pub(super) fn bytes(bytes: usize) -> Amount {
        Amount { bytes, keys: 0 }
    }

    /// Makes the amount of one key or queue of this many bytes.
    pub(super) fn key(bytes: usize) -> Amount {
        Amount { bytes, keys: 1 }
    }

    fn plus(self, more: Amount) -> Amount {
        Amount { bytes: self.bytes + more.bytes, keys: self.keys + more.keys }
    }

    pub(super) fn less(self, other: Amount) -> Amount {
        Amount { bytes: self.bytes.saturating_sub(other.bytes), keys: self.keys.saturating_sub(other.keys) }
    }

    /// Returns how much more a holder of `held` may take if `self` is free. The holder may hold half of `self + held`,
    /// so this is `(self - held) / 2`.
    fn share(self, held: Amount) -> Amount {
        let left = self.less(held);
        Amount { bytes: left.bytes / 2, keys: left.keys / 2 }
    }
}

/// The client that wrote an entry last. The entry is charged to this client and to its address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Owner {
    client: ClientId,
    home: Home,
}

pub(super) struct Accounts {
    limit: Amount,
    all: Amount,
    /// The clients that are connected.
    clients: HashMap<ClientId, (Home, Amount)>,
    homes: HashMap<Home, Amount>,
}

impl Accounts {
    pub(super) fn new(limit: Amount) -> Accounts {
        Accounts { limit, all: Amount::default(), clients: HashMap::new(), homes: HashMap::new() }
    }

    pub(super) fn welcome(&mut self, client: ClientId, home: Home) {
        self.clients.insert(client, (home, Amount::default()));
    }

    /// Removes a client. The client's entries remain charged to its address.
    pub(super) fn leave(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    pub(super) fn owner(&self, client: ClientId) -> Owner {
        Owner { client, home: self.clients.get(&client).map_or(0, |(home, _)| *home) }
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> Amount {
        self.all
    }

    /// Whether `more` is within the shares of its owner's address and connection.
    pub(super) fn has_room(&self, owner: Owner, more: Amount) -> bool {
        let home = self.homes.get(&owner.home).copied().unwrap_or_default();
        let client = self.clients.get(&owner.client).map_or(Amount::default(), |(_, held)| *held);
        let left = self.limit.less(self.all).share(home).share(client);
        (more.bytes == 0 || more.bytes <= left.bytes) && (more.keys == 0 || more.keys <= left.keys)
    }

    pub(super) fn charge(&mut self, owner: Owner, more: Amount) {
        self.all = self.all.plus(more);
        let home = self.homes.entry(owner.home).or_default();
        *home = home.plus(more);
        if let Some((_, held)) = self.clients.get_mut(&owner.client) {
            *held = held.plus(more);
        }
    }

    pub(super) fn give_back(&mut self, owner: Owner, less: Amount) {
        self.all = self.all.less(less);
        if let Some(home) = self.homes.get_mut(&owner.home) {
            *home = home.less(less);
            if *home == Amount::default() {
                self.homes.remove(&owner.home);
            }
        }
        if let Some((_, held)) = self.clients.get_mut(&owner.client) {
            *held = held.less(less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_room_for_another_client() {
        let mut accounts = Accounts::new(Amount { bytes: 64_000, keys: 1024 });
        for client in 0..8 {
            accounts.welcome(client, u64::from(client >= 4));
        }
        let fill = |accounts: &mut Accounts, client| {
            let owner = accounts.owner(client);
            let mut taken = 0;
            while accounts.has_room(owner, Amount::key(10)) {
                accounts.charge(owner, Amount::key(10));
                taken += 1;
            }
            taken
        };
        let taken: Vec<usize> = (0..8).map(|client| fill(&mut accounts, client)).collect();
        assert!((250..=256).contains(&taken[0]), "a quarter for one connection: {taken:?}");
        assert!((450..512).contains(&taken[..4].iter().sum::<usize>()), "half for one address: {taken:?}");
        assert!(taken[4] > 100, "room for another address: {taken:?}");
        assert!(taken.iter().all(|n| *n > 0), "room for everybody: {taken:?}");
        let gone = accounts.owner(0);
        accounts.leave(0);
        accounts.give_back(gone, Amount { bytes: 10 * taken[0], keys: taken[0] });
        accounts.welcome(9, 0);
        assert!(fill(&mut accounts, 9) > 50, "what was deleted is free again");
    }

    #[test]
    fn addresses_of_one_host_share_an_account() {
        let at = |text: &str| home(text.parse().unwrap());
        assert_eq!(at("10.0.0.1"), at("::ffff:10.0.0.1"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::2"));
        assert!(at("10.0.0.1") != at("10.0.0.2") && at("2001:db8::1") != at("2001:db8:0:1::1"));
    }
}
