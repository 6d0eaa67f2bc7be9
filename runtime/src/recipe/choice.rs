//! Values that are one of a few names.

/// Text that names none of the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}: did you mean `{nearest}`? Known: {known}")]
pub struct ChoiceError {
    /// What was chosen.
    pub what: &'static str,
    /// As given.
    pub given: String,
    /// The nearest name.
    pub nearest: &'static str,
    /// Every name.
    pub known: String,
}

/// Defines an enum whose variants have names: `NAMES`, `Display`, `FromStr` (its error names the nearest) and serde as text.
macro_rules! choice {
    ($(#[$outer:meta])* pub enum $Name:ident ($what:literal) { $($(#[$inner:meta])* $Variant:ident = $name:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Name { $($(#[$inner])* $Variant,)+ }

        impl $Name {
            /// Every name, in order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $($Name::$Variant => $name,)+ }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $Name {
            type Err = $crate::recipe::choice::ChoiceError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok($Name::$Variant),)+
                    _ => Err($crate::recipe::choice::ChoiceError {
                        what: $what,
                        given: text.to_owned(),
                        nearest: $crate::recipe::nearest::nearest(text, Self::NAMES.iter().copied()).unwrap_or_default(),
                        known: Self::NAMES.join(", "),
                    }),
                }
            }
        }

        impl serde::Serialize for $Name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $Name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use choice;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro defines public enums")]
mod tests {
    choice! {
        /// For the tests.
        pub enum Fruit ("fruit") {
            /// An apple.
            Apple = "apple",
            /// A blood orange.
            BloodOrange = "blood-orange",
        }
    }

    #[test]
    fn names_round_trip() {
        for &name in Fruit::NAMES {
            let fruit: Fruit = name.parse().unwrap();
            assert_eq!(fruit.to_string(), name);
            assert_eq!(serde_json::from_value::<Fruit>(serde_json::to_value(fruit).unwrap()).unwrap(), fruit);
        }
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let error = "orange".parse::<Fruit>().unwrap_err().to_string();
        assert_eq!(error, "`orange` is no fruit: did you mean `apple`? Known: apple, blood-orange");
    }
}
