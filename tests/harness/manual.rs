//! What README and docs/ print, taken apart, so that a test can run it as it is printed.

use std::fs;
use std::path::Path;

use crate::root;

/// A block between two fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The page, as in `docs/SYNC.md`.
    pub page: String,
    /// The line of its first fence.
    pub line: usize,
    /// What the fence says that it is in, as in `sh`.
    pub language: String,
    /// What is between the fences.
    pub text: String,
}

impl Block {
    /// Says whether a person is to run it.
    pub fn is_run(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "console")
    }

    /// Returns what a person types: all of a `sh` block, and the lines of a `console` block that begin with `$ `.
    pub fn commands(&self) -> String {
        if self.language == "sh" {
            return self.text.clone();
        }
        let typed = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
        typed.map(|line| format!("{line}\n")).collect()
    }

    /// Returns what is printed after the first command of a `console` block.
    pub fn output(&self) -> &str {
        self.text.split_once('\n').unwrap_or_default().1
    }
}

/// Returns every block of README.md and of the pages in docs/.
///
/// # Panics
/// A fence that says no language, or that is not closed.
pub fn blocks() -> Vec<Block> {
    let mut pages = vec!["README.md".to_owned()];
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    pages.extend(
        docs.filter(|name| name.ends_with(".md"))
            .map(|name| format!("docs/{name}")),
    );
    pages.sort();
    pages.iter().flat_map(|page| blocks_of(page)).collect()
}

fn blocks_of(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(Path::new(page))).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut open) {
            (Some(language), None) => {
                assert!(
                    !language.is_empty(),
                    "{page}:{}: a block says no language",
                    number + 1
                );
                open = Some(Block {
                    page: page.to_owned(),
                    line: number + 1,
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            // Indented text is code too, and would be overlooked.
            (None, None) => assert!(
                !line.starts_with("    ") || text_continues(&text, number),
                "{page}:{}: write a fenced block instead of an indented one",
                number + 1
            ),
        }
    }
    assert_eq!(open, None, "{page}: a block is not closed");
    blocks
}

/// Says whether an indented line goes on with a list.
fn text_continues(text: &str, number: usize) -> bool {
    let before = text.lines().take(number).collect::<Vec<_>>();
    let paragraph = before
        .iter()
        .rev()
        .take_while(|line| !line.trim().is_empty());
    let mut paragraph = paragraph.map(|line| line.trim_start());
    paragraph.any(|line| line.starts_with("- ") || line.starts_with(|c: char| c.is_ascii_digit()))
}
