use super::*;

fn size(bytes: u64) -> Size {
    Size::new(bytes).unwrap()
}

const GIB: u64 = 1 << 30;

/// Every reason: the reason, its error for a resize, its error for a write, its label, its sentence.
fn table() -> Vec<(Reason, u32, u32, &'static str, &'static str)> {
    let wait = Some(Duration::from_secs(6));
    vec![
        (Reason::Zero, 22, 28, "zero", "export `vm7` can't have size 0; ask for at least one byte"),
        (
            Reason::Impossible { asked: 1 << 63 },
            22,
            28,
            "impossible",
            "export `vm7` can't have 8 EiB; the most there can be is 2^63-1 bytes",
        ),
        (
            Reason::NotOffered,
            22,
            28,
            "not-offered",
            "export `vm7` did not offer this to you; ask for NBD_INFO_RESIZE in NBD_OPT_GO first",
        ),
        (
            Reason::NotAuthorised { verb: "shrink" },
            1,
            28,
            "not-authorised",
            "export `vm7`: you may not shrink it; ask the operator for the verb `shrink`",
        ),
        (Reason::ReadOnly, 1, 1, "read-only", "export `vm7` is read-only, so its size stays"),
        (
            Reason::FixedSize { size: size(8 * GIB) },
            1,
            28,
            "fixed-size",
            "export `vm7` is 8 GiB and its backend can't be resized",
        ),
        (
            Reason::AutomaticNotOffered { size: size(8 * GIB) },
            1,
            28,
            "automatic-not-offered",
            "export `vm7` is 8 GiB and does not grow by your writes; resize it first",
        ),
        (
            Reason::ShrinkForbidden,
            1,
            28,
            "shrink-forbidden",
            "export `vm7` may not shrink; its `shrink` would have to be true",
        ),
        (
            Reason::BackendCannotShrink,
            1,
            28,
            "backend-cannot-shrink",
            "export `vm7` can't shrink: its backend only grows",
        ),
        (
            Reason::BackendUnproven,
            1,
            28,
            "backend-unproven",
            "export `vm7` can't shrink before its backend has shown that it can grow",
        ),
        (
            Reason::BelowMinimum { asked: size(512), min: size(1024) },
            1,
            28,
            "minimum",
            "export `vm7` may not be 512 bytes; the least it may be is 1 KiB",
        ),
        (
            Reason::OthersDidNotOptIn { sessions: 2 },
            1,
            28,
            "others-did-not-opt-in",
            "export `vm7` can't shrink under 2 other sessions that did not opt in to resize; close them first",
        ),
        (
            Reason::KernelClients { sessions: 1 },
            1,
            28,
            "kernel-clients",
            "export `vm7` can't shrink under 1 other session without structured replies; close them first",
        ),
        (
            Reason::MayComeBack { sessions: 3 },
            1,
            28,
            "may-come-back",
            "export `vm7` can't shrink yet: 3 sessions that did not opt in left without DISC and may come back; wait for shrink-grace",
        ),
        (
            Reason::AlreadySmaller { asked: size(8 * GIB), size: size(4 * GIB) },
            1,
            28,
            "already-smaller",
            "export `vm7` is 4 GiB, already smaller than 8 GiB; learn its size and ask again",
        ),
        (
            Reason::HiddenBytes { size: size(4 * GIB), disk: size(8 * GIB) },
            1,
            28,
            "hidden-bytes",
            "export `vm7` shows 4 GiB of the 8 GiB that its backend has; publish them all or take them away before it shrinks",
        ),
        (
            Reason::OperatorPublishes { size: size(8 * GIB) },
            1,
            28,
            "operator-publishes",
            "export `vm7` is 8 GiB until its operator publishes another size; ask the operator to resize it and to publish that",
        ),
        (
            Reason::SizeStays { size: size(8 * GIB) },
            1,
            28,
            "size-stays",
            "export `vm7` stays at 8 GiB until it is opened again; its `publish` is `never`",
        ),
        (
            Reason::RateLimited { limit: "resize-rate", again_after: wait },
            1,
            28,
            "rate",
            "export `vm7`: tenant `blue` is at its resize-rate; try again in 6s",
        ),
        (
            Reason::RateLimited { limit: "growth-rate", again_after: None },
            1,
            28,
            "rate",
            "export `vm7`: this is more than the growth-rate of tenant `blue` ever allows at once",
        ),
        (
            Reason::OverQuota { size: size(8 * GIB), wanted: Bytes(2 * GIB), left: Bytes(GIB), quota: Bytes(10 * GIB) },
            28,
            28,
            "quota",
            "export `vm7` is 8 GiB and would grow by 2 GiB; tenant `blue` has 1 GiB left of 10 GiB",
        ),
        (
            Reason::OverCeiling { asked: 9 * GIB, ceiling: size(8 * GIB) },
            28,
            28,
            "ceiling",
            "export `vm7` can't be 9 GiB; its max-size is 8 GiB",
        ),
        (
            Reason::OverWindow { asked: 9 * GIB, disk: size(8 * GIB) },
            28,
            28,
            "window",
            "export `vm7` can't be 9 GiB; the disk behind it has 8 GiB",
        ),
        (
            Reason::OnlyAWindow { size: size(GIB), disk: size(8 * GIB) },
            1,
            28,
            "only-a-window",
            "export `vm7` is a window of 1 GiB on a disk of 8 GiB; resize it to show more",
        ),
        (
            Reason::AdoptOther { asked: size(4 * GIB), disk: size(3 * GIB) },
            1,
            28,
            "adopt-other",
            "export `vm7`: its backend has 3 GiB, not 4 GiB; look again, and adopt what it has",
        ),
        (
            Reason::LargestExport { asked: size(9 * GIB), largest: size(8 * GIB) },
            28,
            28,
            "largest-export",
            "export `vm7` can't be 9 GiB; the largest export of tenant `blue` is 8 GiB",
        ),
        (
            Reason::TooManyExports { most: 100 },
            1,
            28,
            "exports",
            "export `vm7` is one too many: tenant `blue` may have 100 open at once; close another",
        ),
        (
            Reason::TooManySessions { most: 200 },
            1,
            28,
            "sessions",
            "export `vm7`: tenant `blue` may have 200 sessions at once and has them; end another",
        ),
        (
            Reason::OverMaxStep { size: size(GIB), end: 1 << 62, max_step: Bytes(4 * GIB) },
            28,
            28,
            "max-step",
            "export `vm7` is 1 GiB and a write ends at 4 EiB; one write may grow it by 4 GiB",
        ),
        (Reason::BackendFull, 28, 28, "backend-full", "export `vm7`: its backend has no room to grow"),
        (
            Reason::Unrecorded { size: size(8 * GIB) },
            1,
            28,
            "unrecorded",
            "export `vm7` shows the first 8 GiB of its backend, nobody has on record whether it had more, and what is \
             there does not read as zeroes; say which size it had: nbd-gateway resize vm7 SIZE --adopt",
        ),
        (
            Reason::OlderLedger,
            1,
            28,
            "older-ledger",
            "export `vm7` can't be resized: the ledger is an older copy; say what the export has: nbd-gateway ledger \
             settle vm7 --zero, or --keep",
        ),
        (
            Reason::LedgerUnavailable,
            28,
            28,
            "ledger",
            "export `vm7` can't grow now: the ledger can't record it; ask the operator",
        ),
        (
            Reason::Unmeasured,
            5,
            28,
            "unmeasured",
            "export `vm7` can't be resized before its backend has been measured; try again",
        ),
        (Reason::Busy, 5, 28, "busy", "export `vm7` is being resized; try again when that is done"),
        (
            Reason::Unsettled,
            5,
            28,
            "unsettled",
            "export `vm7`: what an earlier resize did is not known yet; try again when it is",
        ),
        (
            Reason::Quarantined,
            5,
            28,
            "quarantined",
            "export `vm7`: its backend came back smaller than it was; ask the operator",
        ),
        (Reason::BackendFailed, 5, 5, "backend-failed", "export `vm7`: its backend failed to resize"),
        (
            Reason::BackendTimedOut,
            5,
            5,
            "backend-timed-out",
            "export `vm7`: its backend did not say in time, or not clearly, what became of the resize",
        ),
        (
            Reason::BackendUnchanged { size: size(GIB) },
            5,
            5,
            "backend-unchanged",
            "export `vm7`: its backend accepted the resize and still is 1 GiB",
        ),
        (
            Reason::BackendGaveLess { needed: size(2 * GIB), size: size(GIB) },
            5,
            5,
            "backend-gave-less",
            "export `vm7`: its backend went to 1 GiB where 2 GiB was needed",
        ),
        (
            Reason::DrainTimedOut,
            5,
            28,
            "drain-timed-out",
            "export `vm7`: requests past the new end did not end in time; its size stays",
        ),
        (Reason::Cancelled, 1, 28, "cancelled", "export `vm7`: the resize was called off"),
        (Reason::Draining, 108, 108, "draining", "export `vm7` is draining"),
    ]
}

#[test]
fn every_reason_has_its_errors_its_label_and_its_sentence() {
    for (reason, resize, write, label, sentence) in table() {
        assert_eq!(reason.errno(Asked::Resize).wire(), resize, "{reason:?} asked by a resize");
        assert_eq!(reason.errno(Asked::Write).wire(), write, "{reason:?} asked by a write");
        assert_eq!(reason.label(), label);
        let refusal =
            Refusal { export: ExportName::new("vm7").unwrap(), tenant: TenantId::new("blue").unwrap(), reason };
        assert_eq!(refusal.to_string(), sentence);
    }
}

#[test]
fn the_list_of_labels_is_complete_and_each_is_there_once() {
    let mut met: Vec<_> = table().iter().map(|row| row.3).collect();
    met.dedup();
    assert_eq!(met, Reason::LABELS);
}

#[test]
fn the_readme_explains_every_reason_as_it_is_said() {
    let readme = include_str!("../../../README.md");
    let table = readme.split_once("<!-- refusals -->").unwrap().1.split_once("<!-- /refusals -->").unwrap().0;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|l| l.starts_with("| `"))
        .map(|l| l.split(" | ").map(|c| c.trim_matches(['|', ' '])).collect())
        .collect();
    assert_eq!(rows.len(), Reason::LABELS.len());
    for (row, label) in rows.iter().zip(Reason::LABELS) {
        assert_eq!(row[0], format!("`{label}`"));
        let (_, resize, _, _, sentence) = table_of(label);
        let errno = match resize {
            1 => "`EPERM`",
            5 => "`EIO`",
            22 => "`EINVAL`",
            28 => "`ENOSPC`",
            _ => "`ESHUTDOWN`",
        };
        assert_eq!((row[1], row[2]), (errno, sentence), "{label}");
    }
}

fn table_of(label: &str) -> (Reason, u32, u32, &'static str, &'static str) {
    table().into_iter().find(|row| row.3 == label).unwrap()
}
