//! Programs that behave and programs that do not: scripts in a directory of the test's own, run by /bin/sh.
//!
//! Where a test has to see that nobody of a group is left, the group holds a FIFO open: it reads as ended then.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::place::Place;
use super::*;

/// Longer than any test; nobody waits for it.
const LONG: Duration = Duration::from_secs(600);

/// Reads one line, of whom holds the FIFO open.
async fn line(fifo: &mut pipe::Receiver) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        match fifo.read_u8().await {
            Ok(byte) => line.push(byte),
            // Nobody has opened it yet.
            Err(_) => fifo.readable().await.unwrap(),
        }
    }
    String::from_utf8(line).unwrap()
}

fn call(words: &[String]) -> Call<'_> {
    Call { words, environment: Vec::new(), input: Vec::new(), limit: LONG, left: Left::Killed }
}

async fn ran(script: &str) -> Result<String, String> {
    let place = Place::fresh();
    let words = place.script(script);
    let output = run(call(&words)).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(output).unwrap())
}

#[tokio::test]
async fn a_program_gets_its_words_its_input_and_the_environment() {
    let place = Place::fresh();
    let mut words =
        place.script("cat; echo \"$2|$3|$NBD_GATEWAY_NEW_SIZE|${PATH:+path}|$(ps -o pgid= -p $$ | tr -d ' ')|$$\"");
    words.extend(["a b; $(exit 1)".to_owned(), "*".to_owned()]);
    let call =
        Call { environment: vec![("NBD_GATEWAY_NEW_SIZE", "7".to_owned())], input: b"in\n".to_vec(), ..call(&words) };
    let output = String::from_utf8(run(call).await.unwrap()).unwrap();
    let (told, group) = output.trim_end().rsplit_once("|path|").unwrap();
    assert_eq!(told, "in\na b; $(exit 1)|*|7");
    let (group, own) = group.split_once('|').unwrap();
    assert_eq!(group, own, "a group of its own");
}

#[tokio::test]
async fn a_failure_names_the_program_its_code_and_the_end_of_what_it_complained_of() {
    let said = ran("echo nothing; echo 'no such pool' >&2; printf '\\033[31mred\\n' >&2; exit 5").await.unwrap_err();
    assert_eq!(said, "`/bin/sh` failed with exit code 5: no such pool / \\u{1b}[31mred");
    let said = ran("exit 1").await.unwrap_err();
    assert_eq!(said, "`/bin/sh` failed with exit code 1, and wrote nothing to its standard error");
    let said = ran("kill -SEGV $$").await.unwrap_err();
    assert_eq!(said, "`/bin/sh` was ended by signal 11, and wrote nothing to its standard error");
}

#[tokio::test]
async fn of_a_long_complaint_the_end_is_kept() {
    let said = ran("i=0; while [ $i -lt 3000 ]; do echo \"line $i\"; i=$((i+1)); done >&2; exit 2").await.unwrap_err();
    assert!(said.starts_with("`/bin/sh` failed with exit code 2: … "), "{said}");
    assert!(said.ends_with("line 2998 / line 2999"), "{said}");
    // Each line has gained two characters.
    assert!((KEPT_COMPLAINT..2 * KEPT_COMPLAINT).contains(&said.len()), "{}", said.len());
}

#[tokio::test]
async fn what_cannot_be_run_says_why() {
    let place = Place::fresh();
    let not_executable = place.path("plain");
    fs::write(&not_executable, "#!/bin/sh\n").unwrap();
    let no_program = "/proc/self/limits";
    for (word, why) in [
        ("/nonexistent/program", "can't be run: there is no such program"),
        ("nbd-gateway-no-such-program", "can't be run: there is no such program"),
        (not_executable.to_str().unwrap(), "can't be run: it is not executable"),
        (no_program, "can't be run: it is not executable"),
        ("/", "can't be run: it is not executable"),
    ] {
        let error = run(call(&[word.to_owned()])).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{word}` {why}")), "{error}");
    }
}

#[tokio::test]
async fn output_up_to_the_limit_is_kept_and_more_ends_the_program() {
    let most = format!("head -c {MOST_OUTPUT} /dev/zero");
    assert_eq!(ran(&most).await.unwrap().len(), MOST_OUTPUT);
    for more in [format!("{most}; echo"), "while :; do echo for ever; done".to_owned()] {
        let said = ran(&format!("echo why >&2; {more}")).await.unwrap_err();
        assert_eq!(said, "`/bin/sh` wrote more than 65536 bytes to its standard output and was killed: why");
    }
}

#[tokio::test]
async fn a_program_that_reads_no_input_is_not_waited_for() {
    let place = Place::fresh();
    let words = place.script("echo done");
    let output = run(Call { input: vec![b'x'; 1 << 20], ..call(&words) }).await.unwrap();
    assert_eq!(output, b"done\n");
}

#[tokio::test]
async fn a_program_that_closes_its_output_is_waited_for() {
    let said = ran("exec >&-; exec 2>&-; read -r line <\"$1/script\"; exit 9").await.unwrap_err();
    assert_eq!(said, "`/bin/sh` failed with exit code 9, and wrote nothing to its standard error");
}

/// What holds the pipes for ever is not waited for either.
#[tokio::test]
async fn what_a_program_leaves_in_its_group_is_killed_when_it_ends() {
    let place = Place::fresh();
    let mut fifo = place.fifo();
    let words = place.script("exec 3>\"$1/fifo\"; echo up >&3; sleep 1000 & echo done");
    assert_eq!(run(call(&words)).await.unwrap(), b"done\n");
    let mut rest = String::new();
    fifo.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "up\n");
}

#[tokio::test]
async fn what_a_program_is_to_leave_behind_runs_on_after_success_and_is_killed_after_failure() {
    let place = Place::fresh();
    let mut fifo = place.fifo();
    let words = place.script(
        "exec 3>\"$1/fifo\"; mkfifo \"$1/go\"; { read -r code <\"$1/go\"; echo alive >&3; } >&- 2>&- & echo up >&3; exit 0",
    );
    assert_eq!(run(Call { left: Left::Alone, ..call(&words) }).await.unwrap(), b"");
    assert_eq!(line(&mut fifo).await, "up\n");
    fs::write(place.path("go"), "on\n").unwrap();
    assert_eq!(line(&mut fifo).await, "alive\n");

    let place = Place::fresh();
    let mut fifo = place.fifo();
    let words = place.script("exec 3>\"$1/fifo\"; echo up >&3; sleep 1000 & exit 3");
    run(Call { left: Left::Alone, ..call(&words) }).await.unwrap_err();
    let mut rest = String::new();
    fifo.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "up\n");
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_its_whole_group_and_its_last_words_are_kept() {
    let place = Place::fresh();
    let mut fifo = place.fifo();
    let words =
        place.script("exec 3>\"$1/fifo\"; trap 'echo told to end >&2; exit 0' TERM; sleep 1000 & echo up >&3; wait");
    let limit = Duration::from_secs(30);
    let running = run(Call { limit, ..call(&words) });
    let watching = async {
        assert_eq!(line(&mut fifo).await, "up\n");
        // The limit passes now; the rest is in real time again, so that the script can say what it has to.
        tokio::time::pause();
        tokio::time::advance(limit).await;
        tokio::time::resume();
        let mut rest = String::new();
        fifo.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let (ended, rest) = tokio::join!(running, watching);
    let said = "`/bin/sh` did not end within 30s and was killed: told to end";
    assert_eq!((ended.unwrap_err().to_string().as_str(), rest.as_str()), (said, ""));
}

#[tokio::test]
async fn a_program_that_will_not_be_told_is_killed() {
    let place = Place::fresh();
    let mut fifo = place.fifo();
    let words = place.script("exec 3>\"$1/fifo\"; trap '' TERM; echo up >&3; while :; do sleep 1000; done");
    let limit = Duration::from_secs(30);
    let running = run(Call { limit, ..call(&words) });
    let watching = async {
        assert_eq!(line(&mut fifo).await, "up\n");
        // Whoever waits finds that the time has passed.
        tokio::time::pause();
        let mut rest = String::new();
        fifo.read_to_string(&mut rest).await.unwrap();
        tokio::time::resume();
    };
    let (ended, ()) = tokio::join!(running, watching);
    assert!(matches!(ended, Err(CommandError::Late { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_any_more_is_told_to_end_and_leaves_no_zombie() {
    let place = Place::fresh();
    let mut fifo = place.fifo();
    let words = place.script("exec 3>\"$1/fifo\"; trap 'echo bye >&3; exit' TERM; echo $$ >&3; sleep 1000 & wait");
    let pid = {
        let running = run(call(&words));
        tokio::pin!(running);
        tokio::select! {
            // A program that has ended failed the test, whatever it wrote.
            biased;
            ended = &mut running => panic!("it ended: {ended:?}"),
            pid = line(&mut fifo) => pid,
        }
    };
    let mut rest = String::new();
    fifo.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye\n");
    let process = PathBuf::from("/proc").join(pid.trim());
    while Path::exists(&process) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_program_does_not_outlive_the_runtime_that_keeps_it() {
    let place = Place::fresh();
    let words = place.script("exec 3>\"$1/fifo\"; trap '' TERM; echo up >&3; while :; do sleep 1000; done");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, there) = (runtime(), runtime());
    let mut fifo = here.block_on(async { place.fifo() });
    let running = there.spawn(async move { run(call(&words)).await.map_err(|error| error.to_string()) });
    std::thread::scope(|scope| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        scope.spawn(move || {
            there.block_on(async { drop(stopped.await) });
            there.shutdown_background();
        });
        here.block_on(async {
            assert_eq!(line(&mut fifo).await, "up\n");
            drop(stop);
            let mut rest = String::new();
            fifo.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "");
            running.await.unwrap_err();
        });
    });
}
