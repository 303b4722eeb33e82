//! The tests, one per cell, so that a filter can name them: `resize::pairs::notified::draft::grow`.

use super::backend::Backend;
use super::cell::outcome;
use super::event::Event;
use super::style::Style;
use crate::trouble::Trouble;

macro_rules! with_every_backend {
    ($($module:ident: $style:ident),* $(,)?) => {
        $(mod $module {
            use super::*;

            with_every_backend!(@ $style:
                memory: Memory,
                file: File,
                extension_with_notify: Notify,
                extension_with_query: Query,
                extension_explicit_alone: Explicit,
                extension_automatic_alone: Automatic,
                extension_fixed: Fixed,
                draft: Draft,
                draft_that_exposes_old_bytes: DraftDirty,
                draft_that_lies: DraftLiar,
                grown_by_writes: ByWrites,
                stock: Stock,
            );
        })*

        #[test]
        fn no_style_is_left_out() {
            assert_eq!([$(Style::$style),*].as_slice(), Style::ALL);
        }
    };
    (@ $style:ident: $($module:ident: $backend:ident),* $(,)?) => {
        $(mod $module {
            use super::*;

            with_every_backend!(% $style $backend:
                grow: Grow,
                grow_rounded: GrowRounded,
                shrink: Shrink,
                same_size: SameSize,
                refused: Refused,
                behind_the_back: BehindTheBack,
            );
        })*

        #[test]
        fn no_backend_is_left_out() {
            assert_eq!([$(Backend::$backend),*].as_slice(), Backend::ALL);
        }
    };
    (% $style:ident $backend:ident: $($name:ident: $event:ident),* $(,)?) => {
        $(#[test]
        fn $name() -> Result<(), Trouble> {
            outcome(Style::$style, Backend::$backend, Event::$event)
        })*

        #[test]
        fn no_event_is_left_out() {
            assert_eq!([$(Event::$event),*].as_slice(), Event::ALL);
        }
    };
}

with_every_backend! {
    simple: Simple,
    structured: Structured,
    extended: Extended,
    automatic: Automatic,
    query: Query,
    handshake: Handshake,
    notified: Notified,
    libnbd: Libnbd,
}
