//! The scopes of a token request: `repository:hub/app:pull,push`, as in Distribution's token specification.

use sluice_domain::Repository;

/// The most scopes of one request; a push that mounts from a sibling has two.
const MAX_SCOPES: usize = 32;
/// The longest scope: a repository of 255 characters with its actions fits in.
const MAX_SCOPE_BYTES: usize = 512;

/// Actions on a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Read.
    pub(crate) pull: bool,
    /// Write.
    pub(crate) push: bool,
    /// Remove.
    pub(crate) delete: bool,
}

impl Actions {
    /// Every action.
    pub(crate) const ALL: Self = Self {
        pull: true,
        push: true,
        delete: true,
    };

    /// Parses `pull,push`; `*` is every action, and unknown ones are ignored.
    fn parse(text: &str) -> Self {
        let mut actions = Self::default();
        for action in text.split(',') {
            match action {
                "pull" => actions.pull = true,
                "push" => actions.push = true,
                "delete" => actions.delete = true,
                "*" => actions = Self::ALL,
                _ => {}
            }
        }
        actions
    }

    /// Returns the actions that are in both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            pull: self.pull && other.pull,
            push: self.push && other.push,
            delete: self.delete && other.delete,
        }
    }

    /// Returns the names, in the order of the specification.
    pub(crate) fn names(self) -> Vec<&'static str> {
        [
            (self.pull, "pull"),
            (self.push, "push"),
            (self.delete, "delete"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect()
    }
}

/// A requested scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Actions on a repository.
    Repository(Repository, Actions),
    /// The list of all repositories.
    Catalog,
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        match kind {
            "repository" => Some(Self::Repository(
                name.parse().ok()?,
                Actions::parse(actions),
            )),
            "registry" if name == "catalog" => actions
                .split(',')
                .any(|a| a == "*")
                .then_some(Self::Catalog),
            _ => None,
        }
    }

    /// Parses the values of `scope`, each of which may hold several, separated by spaces.
    ///
    /// Invalid scopes and those beyond the limits are ignored: the token then grants less.
    pub(crate) fn parse_all<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Self> {
        values
            .flat_map(|value| value.split(' '))
            .filter(|text| !text.is_empty())
            .take(MAX_SCOPES)
            .filter(|text| text.len() <= MAX_SCOPE_BYTES)
            .filter_map(Self::parse)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Vec<Scope> {
        Scope::parse_all(values.iter().copied())
    }

    fn repository(name: &str, pull: bool, push: bool, delete: bool) -> Scope {
        let actions = Actions { pull, push, delete };
        Scope::Repository(name.parse().unwrap(), actions)
    }

    #[test]
    fn scopes_are_parsed_from_one_value_or_several() {
        let (one, other) = (
            repository("hub/app", true, true, false),
            repository("official/app", true, false, false),
        );
        let both = [one, other];
        let (first, second) = (
            "repository:hub/app:pull,push",
            "repository:official/app:pull",
        );
        assert_eq!(read(&[first, second]), both);
        assert_eq!(read(&[&format!("{first}  {second} ")]), both);
    }

    #[test]
    fn every_form_is_parsed() {
        for (text, scope) in [
            ("repository:a:*", repository("a", true, true, true)),
            ("repository:a:delete", repository("a", false, false, true)),
            ("repository:a:pull,fly", repository("a", true, false, false)),
            ("repository:a:", repository("a", false, false, false)),
            ("registry:catalog:*", Scope::Catalog),
        ] {
            assert_eq!(read(&[text]), [scope], "{text}");
        }
    }

    #[test]
    fn an_invalid_scope_is_ignored() {
        for text in [
            "",
            " ",
            "repository",
            "repository:hub/app",
            "repository:HUB/app:pull",
            "repository:hub/../app:pull",
            "repository:registry:5000/app:pull",
            "repository(plugin):hub/app:pull",
            "registry:catalog:pull",
            "registry:other:*",
            "other:hub/app:pull",
        ] {
            assert_eq!(read(&[text]), [], "{text}");
        }
    }

    #[test]
    fn scopes_are_limited_in_number_and_length() {
        let many = "repository:a:pull ".repeat(MAX_SCOPES + 1);
        assert_eq!(read(&[&many]).len(), MAX_SCOPES);
        let long = format!("repository:a:{}", "pull,".repeat(MAX_SCOPE_BYTES));
        assert_eq!(read(&[&long]), []);
    }
    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(repository|registry|[a-z]*)?[:a-z/*, ]*.*") {
            std::hint::black_box(read(&[&text]));
        }
    }
}
