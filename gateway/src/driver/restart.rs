//! `driver = "restart"`: the length of the file, then a program of the operator's that restarts the NBD server.
//!
//! For servers that never look at their file's size again. Without a file, the program resizes as well. When the program
//! fails, nobody knows what became of it: the file has its new length, and a server that a supervisor starts again in a
//! while shows that. What the program leaves running is left alone: it is to start a server.

use tokio::time::Instant;

use super::Order;
use super::file::File;
use crate::command::{self, Call, CommandError, Left};
use crate::fault::Fault;

/// A file, and what restarts its server.
#[derive(Clone, Debug)]
pub(crate) struct Restart {
    pub(crate) file: Option<File>,
    pub(crate) words: Vec<String>,
}

impl Restart {
    /// Restarts the server, and leaves the file alone. Cancel-safe: dropped, the program is ended; its server may be down then.
    pub(super) async fn fence(&self, order: &Order) -> Result<(), Fault> {
        let call = Call::telling(&self.words, &order.occasion(), order.limit, Left::Alone);
        command::run(call).await.map(drop).map_err(Fault::from)
    }

    /// Carries an order out. Cancel-safe: dropped, the program is ended; its server may be down then.
    pub(super) async fn resize(&self, order: &Order) -> Result<(), Fault> {
        let since = Instant::now();
        if let Some(file) = &self.file {
            file.resize(order).await?;
        }
        let left = order.limit.saturating_sub(since.elapsed());
        match command::run(Call::telling(&self.words, &order.occasion(), left, Left::Alone)).await {
            Ok(_) => Ok(()),
            // Nothing was touched.
            Err(error @ CommandError::NotRun { .. }) if self.file.is_none() => Err(Fault::host(error.to_string())),
            Err(error) => Err(Fault::host(match &self.file {
                Some(file) => {
                    let path = file.0.display();
                    format!("{error}; `{path}` has been resized, and its server may be down: restart it")
                }
                None => format!("{error}; the server may be down: restart it"),
            })
            .or_done()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::driver::tests::{Place, order};

    fn disk(place: &Place) -> std::path::PathBuf {
        let path = place.path("disk");
        fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        path
    }

    fn restart(path: Option<&Path>, words: Vec<String>) -> Restart {
        Restart { file: path.map(|path| File(path.into())), words }
    }

    #[tokio::test]
    async fn the_file_has_its_length_before_the_program_runs() {
        let place = Place::fresh();
        let disk = disk(&place);
        let words = place.script("[ \"$(wc -c <\"$1/disk\")\" = \"$NBD_GATEWAY_NEW_SIZE\" ] && echo words are welcome");
        assert_eq!(restart(Some(&disk), words).resize(&order(1 << 20, 2 << 20)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_resized_restarts_nothing() {
        let place = Place::fresh();
        let words = place.script("echo ran >\"$1/ran\"");
        let why = restart(Some(&place.path("none")), words).resize(&order(1 << 20, 2 << 20)).await.unwrap_err();
        assert!(!why.is_unknown() && !place.path("ran").exists(), "{why}");
    }

    #[tokio::test]
    async fn a_program_that_fails_after_the_file_was_resized_leaves_it_unknown() {
        let place = Place::fresh();
        let disk = disk(&place);
        let words = place.script("echo 'unit not found' >&2; exit 5");
        let why = restart(Some(&disk), words.clone()).resize(&order(1 << 20, 2 << 20)).await.unwrap_err();
        assert!(why.is_unknown(), "{why}");
        let expected = format!(
            "`/bin/sh` failed with exit code 5: unit not found; `{}` has been resized, and its server may be down: restart it",
            disk.display()
        );
        assert_eq!((why.message(), fs::metadata(&disk).unwrap().len()), (expected.as_str(), 2 << 20));
        assert!(restart(None, words).resize(&order(1, 2)).await.unwrap_err().is_unknown());
        let missing = vec!["/nonexistent/program".to_owned()];
        assert!(!restart(None, missing.clone()).resize(&order(1, 2)).await.unwrap_err().is_unknown());
        assert!(restart(Some(&disk), missing).resize(&order(2 << 20, 3 << 20)).await.unwrap_err().is_unknown());
    }

    #[tokio::test]
    async fn without_a_file_the_program_does_it_all() {
        let place = Place::fresh();
        let words = place.script("cat >\"$1/input\"");
        assert_eq!(restart(None, words).resize(&order(1, 2)).await, Ok(()));
        let told = fs::read_to_string(place.path("input")).unwrap();
        assert_eq!(told, r#"{"export":"vm 1","tenant":"blue","old_size":1,"size":2}"#);
    }
}
