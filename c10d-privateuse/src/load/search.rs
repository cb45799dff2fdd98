//! The search for plugins.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use c10d_core::DispatchKey;
use c10d_core::backend::Registry;

use super::elf::{self, NoteInfo};
use super::filter::Filter;
use super::loaded::{CalledFile, KNOWN, Loaded};
use super::open;
use super::report::{Decision, LoadReport, Verdict};
use super::trust::{TrustedDir, TrustedFile};
use crate::host::{Hosted, LoadedPlugin, is_plugin};
use crate::refusal::{Refusal, Rule};
use crate::table;

/// Directories to scan, separated by colons.
const PATH_VARIABLE: &str = "C10D_PLUGIN_PATH";
/// The names of the plugins that are loaded from directories: `a,b` means only these, `^a,b` all except these.
const LIST_VARIABLE: &str = "C10D_PLUGINS";

/// The files and directories to search, in order. Only those that the caller added are searched.
///
/// ```no_run
/// use c10d_privateuse::Search;
/// let report = Search::new().file("/opt/acme/libc10d_acme.so").load();
/// for decision in &report.decisions {
///     println!("{decision}");
/// }
/// let builder = c10d_core::Builder::new().providers(&report.providers);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a search does nothing until `load` or `inspect`"]
pub struct Search {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    standard: bool,
    environment: bool,
    taken: Vec<(String, String)>,
    trusted: Vec<String>,
    patience: Duration,
}

impl Default for Search {
    fn default() -> Search {
        Search {
            files: Vec::new(),
            directories: Vec::new(),
            standard: false,
            environment: false,
            taken: Vec::new(),
            trusted: Vec::new(),
            patience: Duration::from_secs(10),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Look,
    Load,
}

impl Search {
    /// Makes an empty search.
    pub fn new() -> Search {
        Search::default()
    }

    /// Makes an empty search. A plugin with the name of a backend or device of this registry is refused.
    pub fn beside(linked: &Registry) -> Search {
        let backends = linked.backends().map(|(r, source)| (r.name, source));
        let devices = linked.devices().map(|(d, source)| (d.name, source));
        // Plugins that the registry already has are no conflict: this search may find the same plugins again.
        let linked = backends.chain(devices).filter(|(_, source)| !is_plugin(source));
        linked.fold(Search::new(), |search, (name, source)| search.taken(name, source))
    }

    /// Adds this file, which may have any name. The path must be absolute.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Search {
        self.files.push(path.into());
        self
    }

    /// Adds the files `libc10d_*.so` of this directory, in the order of their names. The path must be absolute.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Search {
        self.directories.push(path.into());
        self
    }

    /// Adds the user's directory (`$XDG_DATA_HOME/c10d/plugins`) and the program's (`../lib/c10d/plugins`, relative to
    /// the directory of the executable), if they exist. In a process that has more privileges than its user, these
    /// directories are ignored, and the report says so.
    pub fn standard(mut self) -> Search {
        self.standard = true;
        self
    }

    /// Adds the settings of the environment: `C10D_PLUGIN_PATH` lists directories, `C10D_PLUGINS` names the plugins of
    /// all directories to load (`a,b`) or not to load (`^a,b`). `C10D_PLUGINS` does not apply to the files that
    /// [`Search::file`] adds. If either variable is set, the standard directories are added. In a process that has more
    /// privileges than its user, both variables are ignored, and the report says so.
    pub fn environment(mut self) -> Search {
        self.environment = true;
        self
    }

    /// Marks a backend or device name as used by `by`. A plugin with this name is refused.
    pub fn taken(mut self, name: impl Into<String>, by: impl Into<String>) -> Search {
        self.taken.push((name.into(), by.into()));
        self
    }

    /// Lets the plugin of this name, if it is loaded, work on the callers' own memory, without copies of borrowed
    /// memory. The plugin must then release the memory by the deadline of the op. If it does not, the group fails, and
    /// the call returns only when the plugin has released the memory. The plugin is trusted until the process ends. If
    /// no plugin has this name, the report says so.
    pub fn trust(mut self, name: impl Into<String>) -> Search {
        self.trusted.push(name.into());
        self
    }

    /// Sets the time limit for code of a plugin that runs outside an operation: its entry, `probe` and `identity`. The
    /// default is 10 s. A call that takes longer is abandoned, and the error names the plugin. A plugin that is loaded
    /// already keeps its limit.
    pub fn patience(mut self, patience: Duration) -> Search {
        self.patience = patience;
        self
    }

    /// Checks everything that can be checked without running code of the plugins.
    pub fn inspect(&self) -> LoadReport {
        self.run(Depth::Look)
    }

    /// Loads the plugins that pass the checks, for the life of the process.
    pub fn load(&self) -> LoadReport {
        self.run(Depth::Load)
    }

    fn run(&self, depth: Depth) -> LoadReport {
        let mut known = KNOWN.lock();
        let mut pass = Pass {
            search: self,
            depth,
            known: &mut known,
            names: Vec::new(),
            files: Vec::new(),
            cuda: None,
            out: LoadReport::default(),
        };
        pass.all();
        for decision in &pass.out.decisions {
            decision.log();
        }
        pass.out
    }
}

struct Pass<'a> {
    search: &'a Search,
    depth: Depth,
    known: &'a mut Vec<CalledFile>,
    /// The names that were found in this pass, and their files.
    names: Vec<(String, PathBuf)>,
    /// The files of this pass, by device and inode.
    files: Vec<(u64, u64, PathBuf)>,
    /// The plugin whose runtime drives CUDA devices.
    cuda: Option<PathBuf>,
    out: LoadReport,
}

impl Pass<'_> {
    fn all(&mut self) {
        for path in &self.search.files {
            let decision = match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => TrustedDir::open(parent).map(|dir| self.file(&dir, name, None)),
                _ => Err(Refusal::new(Rule::Path, format!("{path:?} does not name a file"))),
            };
            self.out.decisions.push(decision.unwrap_or_else(|refusal| Decision::refused(path, refusal)));
        }
        let explicit: Vec<String> = self.names.iter().map(|(name, _)| name.clone()).collect();
        let mut filter = Filter::default();
        let (mut directories, mut standard) = (self.search.directories.clone(), self.search.standard);
        if self.search.environment {
            if let Some(path) = self.variable(PATH_VARIABLE) {
                directories.extend(std::env::split_paths(&path));
                standard = true;
            }
            if let Some(list) = self.variable(LIST_VARIABLE) {
                filter = Filter::parse(&list.to_string_lossy());
                standard = true;
            }
        }
        for path in directories {
            self.directory(&path, &filter);
        }
        let directories = standard_directories();
        if standard && !privileged() {
            directories.iter().filter(|path| path.exists()).for_each(|path| self.directory(path, &filter));
        } else if self.search.standard {
            // The user can choose these directories, so code of the user would run with the additional privileges.
            let what = "ignored: the process has more privileges than the user who started it";
            let ignored = |path| Decision::refused(path, Refusal::new(Rule::Privileged, what));
            self.out.decisions.extend(directories.iter().map(ignored));
        }
        for name in filter.unmet().into_iter().filter(|name| !explicit.contains(name)) {
            let refusal = Refusal::new(Rule::Filter, format!("{name:?} matches no plugin that was found"));
            self.out.decisions.push(Decision::refused(LIST_VARIABLE, refusal));
        }
        for name in self.search.trusted.iter().filter(|name| !self.names.iter().any(|(met, _)| met == *name)) {
            let refusal = Refusal::new(Rule::Filter, format!("no plugin with the trusted name {name:?} was found"));
            self.out.decisions.push(Decision::refused("trust", refusal));
        }
    }

    /// Returns the value of a variable. Returns `None` if the variable is empty or not set, or must be ignored.
    fn variable(&mut self, name: &str) -> Option<std::ffi::OsString> {
        let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
        if !privileged() {
            return Some(value);
        }
        let what = "ignored: the process has more privileges than the user who set the variable";
        self.out.decisions.push(Decision::refused(name, Refusal::new(Rule::Privileged, what)));
        None
    }

    fn directory(&mut self, path: &Path, filter: &Filter) {
        let names = TrustedDir::open(path).and_then(|dir| dir.names().map(|names| (dir, names)));
        match names {
            Ok((dir, names)) => {
                for name in names {
                    let decision = self.file(&dir, &name, Some(filter));
                    self.out.decisions.push(decision);
                }
            }
            Err(refusal) => self.out.decisions.push(Decision::refused(path, refusal)),
        }
    }

    fn file(&mut self, dir: &TrustedDir, name: &OsStr, filter: Option<&Filter>) -> Decision {
        let path = dir.path().join(name);
        let looked = dir.file(name).and_then(|file| {
            let note = elf::inspect(&file.file, u64::try_from(file.stat.st_size).unwrap_or(0))?;
            Ok((file, note))
        });
        let (file, note) = match looked {
            Ok(looked) => looked,
            Err(refusal) => return Decision::refused(path, refusal),
        };
        let decision = match self.admitted(&path, &file, &note, filter) {
            Err(refusal) => Decision::refused(path, refusal),
            Ok(()) if self.depth == Depth::Look => {
                self.note(&note.name, &path, &file);
                Decision::new(path, Verdict::Passed)
            }
            Ok(()) => match self.load(dir, name, &path, &file, &note) {
                Ok(detail) => {
                    self.note(&note.name, &path, &file);
                    Decision { detail, ..Decision::new(path, Verdict::Loaded) }
                }
                Err(refusal) => Decision::refused(path, refusal),
            },
        };
        Decision { name: Some(note.name), abi: Some((note.major, note.minor)), ..decision }
    }

    fn note(&mut self, name: &str, path: &Path, file: &TrustedFile) {
        self.names.push((name.to_owned(), path.to_owned()));
        self.files.push((file.stat.st_dev, file.stat.st_ino, path.to_owned()));
    }

    /// Checks that the filter allows the plugin, and that neither its file nor its name is in use already.
    fn admitted(
        &self,
        path: &Path,
        file: &TrustedFile,
        note: &NoteInfo,
        filter: Option<&Filter>,
    ) -> Result<(), Refusal> {
        let name = &note.name;
        if filter.is_some_and(|f| !f.admits(name)) {
            return Err(Refusal::new(Rule::Filter, format!("{LIST_VARIABLE} does not allow {name:?}")));
        }
        let id = (file.stat.st_dev, file.stat.st_ino);
        if let Some((_, _, first)) = self.files.iter().find(|(d, i, _)| (*d, *i) == id) {
            return Err(Refusal::new(Rule::Duplicate, format!("the same file as {first:?}")));
        }
        if let Some((_, by)) = self.search.taken.iter().find(|(n, _)| n == name) {
            return Err(Refusal::new(Rule::Name, format!("{name:?} is built in ({by}); {path:?} is not loaded")));
        }
        let others = self.known.iter().filter(|known| !known.same_file(&file.stat));
        let mut others = others.filter_map(|known| Some(known.came_to.as_ref().ok()?.plugin.hosted));
        let before = others.find(|other| other.name == name).map(|other| &other.path);
        let before = before.or(self.names.iter().find(|(n, _)| n == name).map(|(_, p)| p));
        match before {
            Some(first) => {
                let what = format!("{path:?} has the name {name:?}, which {first:?} already has");
                Err(Refusal::new(Rule::Name, what))
            }
            None => Ok(()),
        }
    }

    fn load(
        &mut self,
        dir: &TrustedDir,
        name: &OsStr,
        path: &Path,
        file: &TrustedFile,
        note: &NoteInfo,
    ) -> Result<String, Refusal> {
        if let Some(known) = self.known.iter().find(|k| k.same_file(&file.stat)) {
            return known.came_to.clone().map(|loaded| self.bring(loaded));
        }
        let entry = open::open(dir, name, file)?;
        let hosted = Hosted::new(&note.name, path, self.search.patience);
        let table = open::enter(entry, hosted).and_then(|table| table::read(table, &note.name));
        let came_to = table.map(|table| Loaded::new(LoadedPlugin::leak(hosted, table)));
        self.known.push(CalledFile::new(&file.stat, came_to.clone()));
        came_to.map(|loaded| self.bring(loaded))
    }

    /// Adds a plugin's provider to the report. If an earlier runtime drives CUDA devices, a device part for CUDA
    /// devices is left out.
    fn bring(&mut self, loaded: Loaded) -> String {
        let hosted = loaded.plugin.hosted;
        let cuda = loaded.plugin.drives() == Some(DispatchKey::Cuda);
        let word = DispatchKey::Cuda.device_word();
        let taken = self.search.taken.iter().find(|(name, _)| name == word).map(|(_, by)| by.clone());
        if self.search.trusted.iter().any(|name| name == hosted.name) {
            hosted.trust();
        }
        let taken = taken.or_else(|| self.cuda.as_ref().map(|by| format!("{by:?}"))).filter(|_| cuda);
        if cuda && taken.is_none() {
            self.cuda = Some(hosted.path.clone());
        }
        self.out.providers.push(if taken.is_none() { loaded.provider } else { loaded.without_device });
        match taken {
            Some(by) => {
                format!("{}; {by} already drives {word} devices, so its device part is not used", loaded.summary())
            }
            None => loaded.summary(),
        }
    }
}

/// Whether the process has privileges that the user who started it lacks.
fn privileged() -> bool {
    open::secure()
}

fn standard_directories() -> Vec<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    let user = data.map(|data| data.join("c10d/plugins"));
    let program = std::env::current_exe().ok();
    let prefix = program.as_deref().and_then(Path::parent).and_then(Path::parent);
    user.into_iter().chain(prefix.map(|prefix| prefix.join("lib/c10d/plugins"))).collect()
}
