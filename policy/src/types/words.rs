//! Enums of which each variant has a word.

/// Such an enum, to those who read its words.
pub trait Worded: Copy + 'static {
    /// Each with its word, in order of declaration.
    const WORDS: &'static [(&'static str, Self)];
}

/// Declares such an enum: all of its variants are listed, and each says its word.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$of:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            /// All of them, in order of declaration.
            $vis const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it.
            #[must_use]
            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl $crate::types::Worded for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),*];
        }
    };
}
