//! Counters with names, for servers that say of each datagram what became of it.

/// Makes an enum of what is counted and a table of its numbers.
macro_rules! counters {
    ($(#[$of_enum:meta])* $what:ident, $(#[$of_table:meta])* $table:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$of_enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $what { $($(#[$doc])* $variant,)* }

        impl $what {
            /// All, in their order.
            pub const ALL: &[$what] = &[$($what::$variant,)*];

            /// The name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $($what::$variant => $name,)* }
            }
        }

        $(#[$of_table])*
        #[derive(Clone, Debug)]
        pub struct $table([u64; $what::ALL.len()]);

        impl Default for $table {
            fn default() -> $table {
                $table([0; $what::ALL.len()])
            }
        }

        impl $table {
            pub(crate) fn add(&mut self, what: $what, count: u64) {
                let number = &mut self.0[what as usize];
                *number = number.saturating_add(count);
            }

            /// How often it was so.
            pub fn get(&self, what: $what) -> u64 {
                self.0[what as usize]
            }

            /// All numbers with their names.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                $what::ALL.iter().map(|what| (what.name(), self.get(*what)))
            }
        }
    };
}
pub(crate) use counters;
