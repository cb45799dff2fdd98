//! Joins that fail or are disturbed.

use super::*;
use c10d_core::HashStore;
use std::io::{Read, Write};
use std::net::SocketAddr;

/// Sets a deadline that a join soon reaches.
fn soon(wiring: Wiring) -> Wiring {
    Wiring { deadline: deadline_after(Duration::from_millis(400)), ..wiring }
}

#[test]
fn a_missing_rank_is_named_by_all_that_came() {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    std::thread::scope(|s| {
        let ranks: Vec<_> = [0, 2]
            .map(|rank| {
                let store = store.clone();
                s.spawn(move || Mesh::connect(soon(wiring(rank, 3, store, Transport::Tcp))).err().unwrap())
            })
            .into();
        for rank in ranks {
            let error = rank.join().unwrap();
            assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Rendezvous, &[1][..]), "{error}");
        }
    });
}

/// Publishes the hello of a rank that does not connect.
fn publish(store: &dyn Store, rank: u32, size: u32, transport: Transport) -> JoinListener {
    let (listener, hello) = open(transport, size, &Tuning::default()).unwrap();
    store.set(&format!("mesh/{rank}"), &hello.to_bytes(), deadline_after(CAP)).unwrap();
    listener
}

#[test]
fn a_rank_that_publishes_and_does_not_come_is_named_by_all() {
    for transport in [Transport::Auto, Transport::Tcp] {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        // Nothing answers at this address.
        let _listener = publish(&*store, 1, 4, transport);
        std::thread::scope(|s| {
            let ranks: Vec<_> = [0, 2, 3]
                .map(|rank| {
                    let store = store.clone();
                    s.spawn(move || Mesh::connect(soon(wiring(rank, 4, store, transport))).err().unwrap())
                })
                .into();
            for rank in ranks {
                let error = rank.join().unwrap();
                assert_eq!(*error.kind(), ErrorKind::Rendezvous, "{error}");
                assert!(error.report().guilty.contains(&1), "{error}");
            }
        });
    }
}

#[test]
fn a_rank_number_out_of_range_is_refused_at_once() {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    let error = Mesh::connect(wiring(3, 3, store, Transport::Auto)).err().unwrap();
    assert_eq!(*error.kind(), ErrorKind::Rendezvous);
}

/// The TCP addresses of a rank, as soon as it has published them.
fn addresses(store: &dyn Store, rank: u32) -> Vec<SocketAddr> {
    let record = store.get(&format!("mesh/{rank}"), deadline_after(CAP)).unwrap();
    Hello::from_bytes(&record, rank, rank).unwrap().tcp
}

#[test]
fn strangers_do_not_disturb_a_join() {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    std::thread::scope(|s| {
        let theirs = store.clone();
        let rank0 = s.spawn(move || Mesh::connect(wiring(0, 2, theirs, Transport::Tcp)).unwrap());
        let address = addresses(&*store, 0)[0];
        let connect = || std::net::TcpStream::connect(address).unwrap();
        let session = session(&*store);
        let stranger = |session, from| {
            let purpose = handshake::Purpose::Control;
            let hello = handshake::Handshake { purpose, session, group: wire::hash(b"g"), from, to: 0 };
            let mut stream = connect();
            stream.write_all(&hello.to_bytes()).unwrap();
            stream
        };
        // 150 silent connections are more than the rank keeps open (`STRANGERS`). Four more connections are wrong: one
        // sends garbage, one is of another run, one claims to be from rank 0 (this rank itself), and one from rank 9,
        // which does not exist.
        let silent: Vec<_> = (0..150).map(|_| connect()).collect();
        connect().write_all(&[b'x'; 500]).unwrap();
        let wrong = [stranger([8; 16], 1), stranger(session, 0), stranger(session, 9)];
        let theirs = store.clone();
        let rank1 = s.spawn(move || Mesh::connect(wiring(1, 2, theirs, Transport::Tcp)).unwrap());
        let mut meshes = [rank0.join().unwrap(), rank1.join().unwrap()];
        let [a, b] = &mut meshes;
        std::thread::scope(|s| {
            s.spawn(|| talk(a, 0));
            talk(b, 1);
        });
        for mut stream in wrong {
            stream.set_read_timeout(Some(CAP)).unwrap();
            // The connection is closed without an answer.
            assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
        }
        drop(silent);
    });
}

#[test]
fn another_run_in_the_same_store_is_not_mixed_in() {
    let store: Arc<dyn Store> = Arc::new(HashStore::new());
    let _of_another_run = publish(&*store, 0, 2, Transport::Tcp);
    let theirs = store.clone();
    let error = Mesh::connect(soon(wiring(1, 2, theirs, Transport::Tcp))).err().unwrap();
    assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Rendezvous, &[0][..]), "{error}");
}

#[test]
fn the_store_is_left_as_it_was() {
    let store = HashStore::new();
    std::thread::scope(|s| {
        for rank in 0..3 {
            let store = Arc::new(store.clone());
            s.spawn(move || drop(Mesh::connect(wiring(rank, 3, store, Transport::Auto)).unwrap()));
        }
    });
    assert!(store.check(&["session"], Instant::now()).unwrap());
    assert_eq!(store.num_keys(Instant::now()).unwrap(), 1);
}

#[test]
fn a_join_leaves_no_descriptors_open() {
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let round = || {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        std::thread::scope(|s| {
            for rank in 0..3 {
                let store = store.clone();
                s.spawn(move || {
                    let transport = Transport::Tcp;
                    let group = "leak".into();
                    drop(Mesh::connect(Wiring { group, ..wiring(rank, 3, store, transport) }).unwrap());
                });
            }
        });
    };
    round();
    // Tests run in parallel, so the number of descriptors varies.
    eventually("as many descriptors after as before", || {
        let before = fds();
        (0..5).for_each(|_| round());
        std::thread::sleep(Duration::from_millis(20));
        fds() <= before
    });
}
