//! Handshakes that succeed, one for each branch.

use super::*;

const CONTEXTS: &str = "0000000f \"base:allocation\" 00000015 \"qemu:allocation-depth\"";

fn negotiated(size: u64, flags: u16, framing: Framing) -> Negotiated {
    Negotiated {
        size,
        flags: ExportFlags(flags),
        framing,
        contexts: Vec::new(),
        contexts_left_out: 0,
        block_sizes: None,
        name: None,
        description: None,
        resize: None,
    }
}

#[test]
fn a_plain_go_takes_size_and_flags_and_nothing_that_follows() {
    let done = outcome_of(
        &plain(),
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0001
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    assert_eq!(done, Ok(Progress::Done(negotiated(0x10_0000, 1, Framing::Simple))));
}

#[test]
fn a_backend_with_everything_is_asked_for_everything() {
    let wishes = Wishes {
        framing: Framing::Extended,
        contexts: Contexts::All,
        infos: vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE, Info::RESIZE, Info::NAME],
        ..plain()
    };
    let done = outcome_of(
        &wishes,
        &format!(
            "S: 4e42444d41474943 49484156454f5054 0003
             C: 00000003
             C: 49484156454f5054 0000000b 00000000
             S: 0003e889045565a9 0000000b 00000001 00000000
             C: 49484156454f5054 00000009 00000009 00000001 \"x\" 00000000
             S: 0003e889045565a9 00000009 00000004 00000013 00000000 \"base:allocation\"
             S: 0003e889045565a9 00000009 00000004 00000013 00000000 \"base:allocation\"  ; told twice
             S: 0003e889045565a9 00000009 00000004 00000012 00000000 \"x-resize:watch\"   ; would make BLOCK_STATUS wait
             S: 0003e889045565a9 00000009 00000004 00000019 00000000 \"qemu:allocation-depth\"
             S: 0003e889045565a9 00000009 00000001 00000000
             C: 49484156454f5054 0000000a 00000035 00000001 \"x\" 00000002 {CONTEXTS}
             S: 0003e889045565a9 0000000a 00000004 00000019 00000000 \"qemu:allocation-depth\"
             S: 0003e889045565a9 0000000a 00000004 00000013 00000009 \"base:allocation\"
             S: 0003e889045565a9 0000000a 00000001 00000000
             C: 49484156454f5054 00000007 0000000f 00000001 \"x\" 0004 0001 0002 0003 5253
             S: 0003e889045565a9 00000007 00000003 00000006 0002 \"disk\"
             S: 0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
             S: 0003e889045565a9 00000007 00000003 00000004 7777 0000                  ; of no known type
             S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000000000 1ded
             S: 0003e889045565a9 00000007 00000003 0000001c 5253 003f 0000000000000200 7fffffffffffffff 0000000000000200
             S: 0003e889045565a9 00000007 00000003 00000003 0001 \"x\"
             S: 0003e889045565a9 00000007 00000001 00000000"
        ),
    );
    let expected = Negotiated {
        contexts: vec![("qemu:allocation-depth".to_owned(), 0), ("base:allocation".to_owned(), 9)],
        block_sizes: Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 33_554_432 }),
        name: Some("x".to_owned()),
        description: Some("disk".to_owned()),
        resize: Some(ResizeInfo { features: Features(0x3f), minimum: 512, maximum: u64::MAX >> 1, granularity: 512 }),
        ..negotiated(0, 0x1ded, Framing::Extended)
    };
    assert_eq!(done, Ok(Progress::Done(expected)));
}

#[test]
fn without_extended_headers_structured_replies_are_asked_for() {
    let wishes =
        Wishes { framing: Framing::Extended, contexts: Contexts::These(vec!["base:allocation".to_owned()]), ..plain() };
    let done = outcome_of(
        &wishes,
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 0000000b 00000000
         S: 0003e889045565a9 0000000b 80000001 00000000
         C: 49484156454f5054 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 49484156454f5054 0000000a 0000001c 00000001 \"x\" 00000001 0000000f \"base:allocation\"
         S: 0003e889045565a9 0000000a 00000004 00000013 00000001 \"base:allocation\"
         S: 0003e889045565a9 0000000a 00000001 00000000
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 7fffffffffffffff 05ed
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    let expected = Negotiated {
        contexts: vec![("base:allocation".to_owned(), 1)],
        ..negotiated(u64::MAX >> 1, 0x5ed, Framing::Structured)
    };
    assert_eq!(done, Ok(Progress::Done(expected)));
}

#[test]
fn without_any_structured_framing_no_contexts_are_asked_for() {
    let wishes = Wishes { framing: Framing::Extended, contexts: Contexts::All, ..plain() };
    let done = outcome_of(
        &wishes,
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 0000000b 00000000
         S: 0003e889045565a9 0000000b 80000001 00000007 \"unknown\"
         C: 49484156454f5054 00000008 00000000
         S: 0003e889045565a9 00000008 80000002 00000000
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000000200 016d
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    assert_eq!(done, Ok(Progress::Done(negotiated(512, 0x16d, Framing::Simple))));
}

#[test]
fn a_backend_without_contexts_is_opened_without_contexts() {
    let until_list = "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 49484156454f5054 00000009 00000009 00000001 \"x\" 00000000";
    let one_listed = "S: 0003e889045565a9 00000009 00000004 00000013 00000000 \"base:allocation\"";
    let set = "S: 0003e889045565a9 00000009 00000001 00000000
         C: 49484156454f5054 0000000a 0000001c 00000001 \"x\" 00000001 0000000f \"base:allocation\"";
    let go = "C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000000200 01ed
         S: 0003e889045565a9 00000007 00000001 00000000";
    let wishes = Wishes { framing: Framing::Structured, contexts: Contexts::All, ..plain() };
    for answer in [
        "S: 0003e889045565a9 00000009 80000001 00000000".to_owned(),
        "S: 0003e889045565a9 00000009 00000001 00000000".to_owned(),
        // What was listed before an error does not count.
        format!("{one_listed}\nS: 0003e889045565a9 00000009 80000002 00000000"),
        format!("{one_listed}\n{set}\nS: 0003e889045565a9 0000000a 80000001 00000000"),
        format!(
            "{one_listed}\n{set}
             S: 0003e889045565a9 0000000a 00000004 00000013 00000001 \"base:allocation\"
             S: 0003e889045565a9 0000000a 80000002 00000000"
        ),
    ] {
        let done = outcome_of(&wishes, &format!("{until_list}\n{answer}\n{go}"));
        assert_eq!(done, Ok(Progress::Done(negotiated(512, 0x1ed, Framing::Structured))), "{answer}");
    }
}

#[test]
fn a_backend_without_go_is_opened_by_name_with_or_without_zeroes() {
    let without = outcome_of(
        &plain(),
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 80000001 00000000
         C: 49484156454f5054 00000001 00000001 \"x\"
         S: 0000000000100000 0003",
    );
    assert_eq!(without, Ok(Progress::Done(negotiated(0x10_0000, 3, Framing::Simple))));
    let with = outcome_of(
        &plain(),
        "S: 4e42444d41474943 49484156454f5054 0001
         C: 00000001
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 80000001 00000000
         C: 49484156454f5054 00000001 00000001 \"x\"
         S: 0000000000100000 0003 00*124",
    );
    assert_eq!(with, without);
}

#[test]
fn structured_replies_stay_agreed_on_when_the_export_is_opened_by_name() {
    let wishes = Wishes { framing: Framing::Structured, ..plain() };
    let done = outcome_of(
        &wishes,
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000008 00000000
         S: 0003e889045565a9 00000008 00000001 00000000
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 80000001 00000000
         C: 49484156454f5054 00000001 00000001 \"x\"
         S: 0000000000100000 0003",
    );
    assert_eq!(done, Ok(Progress::Done(negotiated(0x10_0000, 3, Framing::Structured))));
}

#[test]
fn a_backend_that_is_not_fixed_newstyle_is_opened_by_name_at_once() {
    let wishes = Wishes { framing: Framing::Extended, contexts: Contexts::All, ..plain() };
    for (greeting, flags, zeroes) in [("0000", "00000000", "00*124"), ("0002", "00000002", "")] {
        let done = outcome_of(
            &wishes,
            &format!(
                "S: 4e42444d41474943 49484156454f5054 {greeting}
                 C: {flags}
                 C: 49484156454f5054 00000001 00000001 \"x\"
                 S: 0000000000100000 0001 {zeroes}"
            ),
        );
        assert_eq!(done, Ok(Progress::Done(negotiated(0x10_0000, 1, Framing::Simple))));
    }
}

#[test]
fn unknown_flags_of_the_greeting_are_not_echoed() {
    let done = outcome_of(
        &plain(),
        "S: 4e42444d41474943 49484156454f5054 fffd
         C: 00000001
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000000000 0001
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    assert!(done.is_ok());
}

#[test]
fn info_ends_with_an_abort_and_no_transmission() {
    let wishes = Wishes { goal: Goal::Info, infos: vec![Info::BLOCK_SIZE], ..plain() };
    let done = outcome_of(
        &wishes,
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000006 00000009 00000001 \"x\" 0001 0003
         S: 0003e889045565a9 00000006 00000003 0000000c 0000 0000000000100000 0001
         S: 0003e889045565a9 00000006 00000003 0000000e 0003 00000200 00001000 ffffffff
         S: 0003e889045565a9 00000006 00000001 00000000
         C: 49484156454f5054 00000002 00000000",
    );
    let expected = Negotiated {
        block_sizes: Some(BlockSizes { minimum: 512, preferred: 4096, maximum: u32::MAX }),
        ..negotiated(0x10_0000, 1, Framing::Simple)
    };
    assert_eq!(done, Ok(Progress::Done(expected)));
}

#[test]
fn a_list_gives_names_and_descriptions() {
    let wishes = Wishes { goal: Goal::List, ..plain() };
    let done = outcome_of(
        &wishes,
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000003 00000000
         S: 0003e889045565a9 00000003 00000002 00000004 00000000
         S: 0003e889045565a9 00000003 00000002 00000009 00000001 \"x\" \"disk\"
         S: 0003e889045565a9 00000003 00000001 00000000
         C: 49484156454f5054 00000002 00000000",
    );
    let listed = |name: &str, text: &str| Listed { name: name.to_owned(), description: text.to_owned() };
    assert_eq!(done, Ok(Progress::Listed(vec![listed("", ""), listed("x", "disk")])));
}

#[test]
fn an_item_that_was_not_asked_for_opts_into_nothing_and_may_be_anything() {
    let done = outcome_of(
        &plain(),
        "S: 4e42444d41474943 49484156454f5054 0003
         C: 00000003
         C: 49484156454f5054 00000007 00000007 00000001 \"x\" 0000
         S: 0003e889045565a9 00000007 00000003 0000001c 5253 0001 00*24
         S: 0003e889045565a9 00000007 00000003 00000004 5253 0001
         S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0001
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    assert_eq!(done, Ok(Progress::Done(negotiated(0x10_0000, 1, Framing::Simple))));
}

#[test]
fn tls_comes_before_anything_else_and_the_rest_goes_on_inside_it() {
    for (goal, next) in [(Goal::Go, Opt::GO), (Goal::Info, Opt::INFO), (Goal::List, Opt::LIST)] {
        let mut client = Client::new(Wishes { tls: true, goal, ..plain() });
        let mut input = BytesMut::from(&lines("S: 4e42444d41474943 49484156454f5054 0003")[0].1[..]);
        assert!(matches!(client.handle_input(&mut input), Ok(Progress::Need(20))));
        assert_eq!(hex(&client.take_output().unwrap()), "0000000349484156454f50540000000500000000");
        put_reply(&mut input, Opt::STARTTLS, Rep::ACK, &[]);
        assert_eq!(client.handle_input(&mut input), Ok(Progress::StartTls));
        assert_eq!(client.take_output(), None, "a word in the clear after TLS was agreed on");
        client.secured(&input).unwrap();
        let said = client.take_output().unwrap();
        assert_eq!(said[8..12], next.0.to_be_bytes());
        assert!(matches!(client.handle_input(&mut input), Ok(Progress::Need(_))));
    }
}
