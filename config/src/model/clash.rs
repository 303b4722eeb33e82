//! Exports that get in each other's way: the same name, templates of equal rank for one name, one file for two, one disk
//! behind a window and another export, more that are open from the start than their tenant may have.

use std::collections::HashMap;
use std::path::Path;

use nbd_gateway_policy::types::ExportName;

use crate::problem::Report;

use super::backend::{Backend, Target};
use super::driver::Driver;
use super::export::{Entry, Name};
use super::place::{Reserved, misplaced};
use super::template::Template;
use super::tenant::Tenants;

/// Notes names that stand twice, and templates of which neither comes first for a name, at the later export.
pub(super) fn names(names: &[(usize, Name)], report: &mut Report) {
    let mut exact: HashMap<&ExportName, usize> = HashMap::new();
    let mut templates: Vec<(usize, &Template)> = Vec::new();
    for (index, name) in names {
        let path = format!("export[{index}].name");
        match name {
            Name::Exact(name) => {
                if let Some(first) = exact.get(name) {
                    let what = format!("`{name}` is the name of export[{first}] already: every export needs its own");
                    report.note_with(&path, what, None);
                } else {
                    exact.insert(name, *index);
                }
            }
            Name::Template(template) => {
                let ties = |other: &Template| template.literal() == other.literal() && template.overlaps(other);
                if let Some((first, other)) = templates.iter().find(|(_, other)| ties(other)) {
                    let what = format!(
                        "some names fit both `{}` and `{}` of export[{first}], and neither has more literal characters: \
                         make one of them longer",
                        template.as_str(),
                        other.as_str()
                    );
                    report.note_with(&path, what, None);
                }
                templates.push((*index, template));
            }
        }
    }
}

/// Notes NBD servers' disks that stand behind a window and behind another export, at the later one: what the one has past
/// its window's end is the other's data, and would be zeroed.
pub(super) fn windows(entries: &[(usize, Entry)], report: &mut Report) {
    let is_window = |entry: &Entry| matches!(entry.resize.driver, Driver::Window { .. });
    for (at, (index, entry)) in entries.iter().enumerate() {
        if matches!(&entry.backend, Target::Fixed(Backend::File { .. } | Backend::Memory { .. }) | Target::File { .. })
        {
            continue;
        }
        let same =
            |(_, other): &&(usize, Entry)| other.backend == entry.backend && (is_window(entry) || is_window(other));
        if let Some((first, _)) = entries.iter().take(at).find(same) {
            let what = format!(
                "this is the backend of export[{first}] too, and one of them is a window: what is past its end would be \
                 zeroed when it grows"
            );
            report.note_with(&format!("export[{index}].backend"), what, None);
        }
    }
}

/// Notes files that two exports would open, at the later export, and templates whose files are where others' are.
pub(super) fn files(entries: &[(usize, Entry)], reserved: &Reserved, report: &mut Report) {
    let labelled: Vec<_> = entries.iter().map(|(index, entry)| (format!("export[{index}]"), entry)).collect();
    for wrong in misplaced(&labelled, reserved, &Path::to_owned) {
        let index = entries.get(wrong.at).map(|(index, _)| *index).unwrap_or_default();
        report.note_with(&format!("export[{index}].{}", wrong.key), wrong.what, Some(wrong.example.to_owned()));
    }
}

/// Notes tenants whose embedded exports, which are open from the start, are more than `max-exports`.
pub(super) fn crowds(entries: &[(usize, Entry)], tenants: &Tenants, report: &mut Report) {
    for tenant in tenants.list.iter().filter(|tenant| tenant.crowd.enforce) {
        let own = |entry: &Entry| match &entry.backend {
            Target::Fixed(backend) => entry.tenant == tenant.id && backend.is_embedded(),
            _ => false,
        };
        let open = entries.iter().filter(|(_, entry)| matches!(entry.name, Name::Exact(_)) && own(entry)).count();
        let index = tenants.names.iter().position(|name| name == tenant.id.as_str());
        if let (Some(most), Some(index)) = (tenant.crowd.exports, index)
            && u32::try_from(open).is_ok_and(|open| open > most)
        {
            let what = format!(
                "{open} exports of `{}` are file: or memory: ones, which are open from the start: allow at least as many",
                tenant.id
            );
            report.note_with(&format!("tenant[{index}].max-exports"), what, None);
        }
    }
}
