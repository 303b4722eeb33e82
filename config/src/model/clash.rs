//! Exports that get in each other's way: the same name, templates of equal rank for one name, one file for two, one disk
//! behind a window and another export, more that are open from the start than their tenant may have.

use std::collections::HashMap;
use std::path::Path;

use nbd_gateway_policy::types::ExportName;

use crate::problem::Report;

use super::backend::{Backend, Target};
use super::driver::Driver;
use super::export::{Entry, Name};
use super::template::{Blanks, Template};
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
        if matches!(&entry.target, Target::Fixed(Backend::File { .. } | Backend::Memory { .. }) | Target::File { .. }) {
            continue;
        }
        let same =
            |(_, other): &&(usize, Entry)| other.target == entry.target && (is_window(entry) || is_window(other));
        if let Some((first, _)) = entries.iter().take(at).find(same) {
            let what = format!(
                "this is the backend of export[{first}] too, and one of them is a window: what is past its end would be \
                 zeroed when it grows"
            );
            report.note_with(&format!("export[{index}].backend"), what, None);
        }
    }
}

/// Notes files that two exports would open, at the later export.
pub(super) fn files(entries: &[(usize, Entry)], report: &mut Report) {
    let mut fixed: HashMap<&Path, usize> = HashMap::new();
    let mut patterns: HashMap<&Blanks, usize> = HashMap::new();
    let mut shared = |index: usize, first: usize, file: &str| {
        let what = format!(
            "`{file}` is the backend of export[{first}] too: two exports on one file destroy each other's data"
        );
        report.note_with(&format!("export[{index}].backend"), what, Some(r#"backend = "file:another.img""#.to_owned()));
    };
    for (index, entry) in entries {
        match &entry.target {
            Target::Fixed(Backend::File { path, .. }) => match fixed.get(path.as_path()) {
                Some(first) => shared(*index, *first, &format!("file:{}", path.display())),
                None => _ = fixed.insert(path, *index),
            },
            Target::File { path, .. } => match patterns.get(path) {
                Some(first) => shared(*index, *first, &format!("file:{}", path.fill("{}"))),
                None => _ = patterns.insert(path, *index),
            },
            _ => {}
        }
    }
    // A template opens the file of an exact name if the name that leads there is another one.
    let templates = entries.iter().filter_map(|(index, entry)| match (&entry.name, &entry.target) {
        (Name::Template(name), Target::File { path, .. }) => Some((*index, name, path)),
        _ => None,
    });
    let templates: Vec<_> = templates.collect();
    for (at, (index, name, blanks)) in templates.iter().enumerate() {
        for (first, before, others) in templates.iter().take(at).filter(|(_, _, others)| others != blanks) {
            if name.shares(blanks, before, others) {
                shared(*index, *first, &format!("file:{}", blanks.fill("{}")));
            }
        }
    }
    for (index, name, blanks) in templates {
        for (other, entry) in entries {
            let (Name::Exact(exact), Target::Fixed(Backend::File { path, .. })) = (&entry.name, &entry.target) else {
                continue;
            };
            let matched = path.to_str().and_then(|path| blanks.matched(path)).filter(|matched| !matched.contains('/'));
            if matched.is_some_and(|matched| name.name_of(matched) != exact.as_str()) {
                let (first, last) = (index.min(*other), index.max(*other));
                shared(last, first, &format!("file:{}", path.display()));
            }
        }
    }
}

/// Notes tenants whose embedded exports, which are open from the start, are more than `max-exports`.
pub(super) fn crowds(entries: &[(usize, Entry)], tenants: &Tenants, report: &mut Report) {
    for tenant in tenants.list.iter().filter(|tenant| tenant.crowd.enforce) {
        let own = |entry: &Entry| match &entry.target {
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
