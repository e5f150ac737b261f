//! `docs/CONDITIONS.md`, from the schema that conditions are checked against.

use sluice_policy::condition::{Reference, Scope, function_reference, variable_reference};

use super::{check, code, table};

const INTRODUCTION: &str = "Conditions are written in [CEL](https://cel.dev): `when` of a `PromotionPolicy`, and `delete` of a `PruningPolicy`.
Names and types are checked when the resource is applied.

`when` is evaluated once per platform of an image and must hold for each; `delete` is evaluated once per tag, and of several platforms the worst counts.
A condition that needs an unknown value is undetermined: it neither promotes, nor deletes, nor withdraws. `has(image.created)` tests whether a field is known.
Besides the functions below there are CEL's operators (`&&`, `||`, `!`, `==`, `<`, `in`, `? :` and arithmetic), and the macros `all`, `exists`, `map` and `filter` over lists and maps.
The argument of `matches`, `glob` and `semver` must be a string literal.
";

#[test]
fn the_page_of_conditions_matches_the_schema() {
    let everywhere = variable_reference(Scope::Pruning);
    let promotion = variable_reference(Scope::Promotion);
    let is_special = |line: &&Reference| !everywhere.iter().any(|other| other.name == line.name);
    let special: Vec<&Reference> = promotion.iter().filter(is_special).collect();
    let functions = function_reference();
    let page = format!(
        "{INTRODUCTION}\n## Variables\n\n{}\n## Variables of `when` only\n\n{}\n## Functions\n\n{}",
        lines(everywhere.iter()),
        lines(special.into_iter()),
        lines(functions.iter())
    );
    check("CONDITIONS.md", "Conditions", &page);
}

fn lines<'a>(references: impl Iterator<Item = &'a Reference>) -> String {
    let rows: Vec<_> = references
        .map(|line| {
            assert!(line.doc.ends_with('.'), "`{}` is not described", line.name);
            vec![code(&line.name), line.kind.clone(), line.doc.to_owned()]
        })
        .collect();
    table(&["name", "type", "meaning"], &rows)
}
