//! Leaving the group, and the end of the program.

use std::time::Duration;

use super::{Health, Path};
use crate::mesh::control::Frame;

/// How long the program may wait at its end while another thread reports a failure.
const EXIT: Duration = Duration::from_millis(100);

impl Health {
    /// Reports to all peers that this rank leaves. The peers continue, but their calls that need this rank fail.
    pub(in crate::mesh) fn leave(&self) {
        // Peers may make the calls in doubt after this rank has left, so this rank sends these calls now.
        let history = self.goodbye();
        if !history.calls.is_empty() {
            self.send_to_all(&Frame::Calls { last: true, history });
        }
        let _told = self.telling.lock();
        let last = self.call_log().last_ended();
        self.send_to_all(&Frame::Goodbye { last, failed: self.failed() });
        for path in &self.paths {
            if let Some(Path::Away(connection)) = path.get() {
                connection.close();
            }
        }
    }

    /// Reports to all peers that this program ends without leaving.
    pub(crate) fn exit(&self) {
        let _told = self.telling.try_lock_for(EXIT);
        let frame = Frame::Exited { last: self.call_log().last_ended(), failed: self.failed() };
        for path in &self.paths {
            // Ranks of this process end with the program.
            if let Some(Path::Away(connection)) = path.get() {
                connection.send(&frame);
            }
        }
    }
}
