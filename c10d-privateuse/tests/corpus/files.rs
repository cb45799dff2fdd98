//! Files that the loader must refuse, whatever their contents: because of their permissions, owner, kind, path or name.

use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use c10d_privateuse::Rule;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::elf::entry;
use super::lab::{Entry, Lab, is_root};
use crate::common::mode;

/// The user id of another user (nobody).
const OTHER: u32 = 65534;

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        entry!(Writable "world-writable", |lab, to| with_mode(lab, to, 0o757)),
        entry!(Writable "group-writable", |lab, to| with_mode(lab, to, 0o775)),
        entry!(SetId "set-user-id", |lab, to| with_mode(lab, to, 0o4755)),
        entry!(SetId "set-group-id", |lab, to| with_mode(lab, to, 0o2755)),
        Entry { name: "of another user", rule: Rule::Owner, make: another_users },
        entry!(NotRegular "a directory", |_lab, to| std::fs::create_dir(to).unwrap()),
        entry!(NotRegular "a pipe", |_lab, to| mknodat(CWD, to, FileType::Fifo, Mode::RWXU, 0).unwrap()),
        entry!(NotRegular "a socket", |_lab, to| {
            // This entry's name is short: the length of socket paths is limited.
            drop(std::os::unix::net::UnixListener::bind(to).unwrap());
        }),
        Entry { name: "a device", rule: Rule::NotRegular, make: device },
        entry!(Symlink "a link to a good plugin", |lab, to| {
            lab.write(&lab.place("target.so"), &lab.base());
            symlink(lab.place("target.so"), to).unwrap();
        }),
        entry!(Symlink "a link inside the directory", |_lab, to| symlink("libc10d_zz_good.so", to).unwrap()),
        entry!(Symlink "a link to nothing", |_lab, to| symlink("/nowhere", to).unwrap()),
        entry!(Duplicate "a hard link to a loaded plugin", |lab, to| {
            std::fs::hard_link(lab.junk().join("libc10d_00_good.so"), to).unwrap();
        }),
        entry!(Name "the name of an earlier plugin", |lab, to| {
            lab.compile(to, &[&format!("NAME=\"{}a\"", lab.prefix)], &[]);
        }),
    ]
}

fn with_mode(lab: &Lab, to: &Path, bits: u32) {
    lab.write(to, &lab.base());
    std::fs::set_permissions(to, mode(bits)).unwrap();
}

fn another_users(lab: &Lab, to: &Path) -> Result<(), String> {
    if !is_root() {
        return Err("only root can give files away".into());
    }
    lab.write(to, &lab.base());
    chown(to, Some(OTHER), None).map_err(|e| e.to_string())
}

fn device(_: &Lab, to: &Path) -> Result<(), String> {
    // /dev/null with a plugin's name.
    mknodat(CWD, to, FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3)).map_err(|e| e.to_string())
}
