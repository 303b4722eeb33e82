//! `driver = "exec"`: a program of the operator's resizes the backend, and prints the size that it reached.
//!
//! What it prints is a claim, held against what was asked for; the size that counts is read back from the backend. An exit
//! code other than 0 says that it did not do it.

use nbd_gateway_policy::types::Bytes;
use nbd_gateway_proto::Errno;

use super::Order;
use crate::command::{self, Call, Left};
use crate::fault::Fault;

/// A program and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Exec(pub(super) Vec<String>);

impl Exec {
    /// Carries an order out. Cancel-safe: dropped, the program is ended.
    pub(super) async fn resize(&self, order: &Order) -> Result<(), Fault> {
        let call = Call::telling(&self.0, &order.occasion(), order.limit, Left::Killed);
        let output = command::run(call).await?;
        judge(self.0.first().map_or("", String::as_str), &output, order)
    }
}

/// Holds what was printed against what was asked for.
fn judge(program: &str, output: &[u8], order: &Order) -> Result<(), Fault> {
    let Some(reached) = number(output) else {
        let printed = String::from_utf8_lossy(output.get(..200).unwrap_or(output)).into_owned();
        return Err(Fault::host(format!(
            "`{program}` is to print the size that it reached, in bytes, and nothing else; it printed {printed:?}"
        ))
        .or_done());
    };
    let (from, to) = (order.from, order.to);
    if to >= from && reached < to {
        let message = format!("`{program}` was to reach {} and reached {}", Bytes(to), Bytes(reached));
        return Err(Fault::host(message).with_errno(Errno::ENOSPC));
    }
    // A size may be rounded up to what the backend can do.
    if to < from && reached >= from {
        let message =
            format!("`{program}` was to go from {} down to {} and reached {}", Bytes(from), Bytes(to), Bytes(reached));
        return Err(Fault::host(message));
    }
    Ok(())
}

/// A decimal number on the only line; its end may be missing.
fn number(output: &[u8]) -> Option<u64> {
    let line = output.strip_suffix(b"\n").unwrap_or(output);
    let digits = std::str::from_utf8(line).ok()?;
    // A sign is nothing that a size has.
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::driver::tests::{Place, order};

    async fn resized(script: &str, from: u64, to: u64) -> Result<(), Fault> {
        let place = Place::fresh();
        Exec(place.script(script)).resize(&order(from, to)).await
    }

    #[tokio::test]
    async fn a_program_gets_the_order_and_prints_what_it_reached() {
        let place = Place::fresh();
        let words = place.script(
            "[ $# = 1 ] || exit 1; cat >\"$1/input\"; env | grep -E '^NBD_GATEWAY_([A-Z]+_SIZE|[EGT][A-Z]+)=' | sort >\"$1/environment\"; \
             echo \"$NBD_GATEWAY_NEW_SIZE\"",
        );
        assert_eq!(Exec(words).resize(&order(100, 200)).await, Ok(()));
        let read = |name: &str| fs::read_to_string(place.path(name)).unwrap();
        assert_eq!(read("input"), r#"{"export":"vm 1","tenant":"blue","old_size":100,"size":200}"#);
        assert_eq!(
            read("environment"),
            "NBD_GATEWAY_EXPORT=vm 1\nNBD_GATEWAY_NEW_SIZE=200\nNBD_GATEWAY_OLD_SIZE=100\nNBD_GATEWAY_TENANT=blue\n"
        );
    }

    #[tokio::test]
    async fn what_is_no_size_is_quoted_and_may_have_been_done() {
        for printed in [
            "",
            "\\n",
            "200 bytes\\n",
            "200\\n\\n",
            "200\\r\\n",
            "+200\\n",
            "-1\\n",
            "2e2",
            "0x200",
            "99999999999999999999",
        ] {
            let why = resized(&format!("printf -- '{printed}'"), 100, 200).await.unwrap_err();
            assert!(why.is_unknown() && why.message().contains("and nothing else; it printed \""), "{printed}: {why}");
        }
        let why = resized("printf 'a\\033b\\n'", 100, 200).await.unwrap_err();
        assert!(why.message().ends_with(r#"it printed "a\u{1b}b\n""#), "{why}");
    }

    #[tokio::test]
    async fn a_size_that_falls_short_names_both() {
        let why = resized("echo 199", 100, 200).await.unwrap_err();
        assert_eq!((why.errno(), why.is_unknown()), (Errno::ENOSPC, false));
        assert_eq!(why.message(), "`/bin/sh` was to reach 200 bytes and reached 199 bytes");
        assert_eq!(resized("printf 201", 100, 200).await, Ok(()));
        assert_eq!(resized("echo 50", 100, 50).await, Ok(()));
        let why = resized("echo 100", 100, 50).await.unwrap_err();
        assert_eq!(why.message(), "`/bin/sh` was to go from 100 bytes down to 50 bytes and reached 100 bytes");
    }

    #[tokio::test]
    async fn an_exit_code_says_that_it_was_not_done() {
        let why = resized("echo 200; echo 'volume group is full' >&2; exit 5", 100, 200).await.unwrap_err();
        assert_eq!((why.errno(), why.is_unknown()), (Errno::EIO, false));
        assert_eq!(why.message(), "`/bin/sh` failed with exit code 5: volume group is full");
    }

    /// Nobody is awaited who has to do something first, so the time can stand still.
    #[tokio::test(start_paused = true)]
    async fn a_program_that_is_ended_may_have_done_it() {
        let why = resized("while :; do sleep 1000; done", 100, 200).await.unwrap_err();
        assert!(why.is_unknown() && why.message().starts_with("`/bin/sh` did not end within 10m"), "{why}");
    }

    proptest! {
        #[test]
        fn only_digits_are_a_size(text in "\\PC{0,24}", size: u64) {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            prop_assert_eq!(number(text.as_bytes()).is_some(), digits && text.parse::<u64>().is_ok());
            prop_assert_eq!(number(format!("{size}\n").as_bytes()), Some(size));
        }
    }
}
