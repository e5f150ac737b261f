//! Generates the domain structs of messages: `messages!` with their fields, types and comments.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::field_types::FieldType;
use crate::protocol::Message;

/// Generates a struct for each message, and for those of `others` that are in their lists.
pub(crate) fn generate(messages: &[Message], others: &[Message]) -> Result<String, String> {
    let mut imports = BTreeSet::from(["crate::convert::messages"]);
    let mut listed = BTreeSet::new();
    let mut text = String::from("messages! {\n");
    let mut all: Vec<&Message> = messages.iter().collect();
    let mut next = 0;
    while let Some(message) = all.get(next) {
        next += 1;
        writeln!(text, "/// {}\n{} {{", message.comment, message.name).unwrap();
        for field in &message.fields {
            let field_type = FieldType::of(&field.descriptor)?;
            let (name, comment) = (&field.name, &field.comment);
            writeln!(text, "    /// {comment}\n    {name}: {field_type},").unwrap();
            imports.extend(field_type.path);
            if field_type.is_list && listed.insert(field_type.name.clone()) {
                let mut others = others.iter();
                let element = others.find(|other| other.name == field_type.name);
                let name = field.descriptor.full_name();
                all.push(element.ok_or(format!("field `{name}`: it may have no list"))?);
            }
        }
        text.push_str("}\n");
    }
    text.push_str("}\n");
    if !listed.is_empty() {
        imports.insert("crate::convert::repeated_field");
        let listed: Vec<String> = listed.into_iter().collect();
        writeln!(text, "\nrepeated_field!({});", listed.join(", ")).unwrap();
    }
    let imports: Vec<_> = imports.iter().map(|path| format!("use {path};")).collect();
    let imports = imports.join("\n");
    Ok(format!("// Generated from /proto.\n\n{imports}\n\n{text}"))
}
