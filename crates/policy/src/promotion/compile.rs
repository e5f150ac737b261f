//! Compiles the condition of a policy, from either of its two forms.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use sluice_domain::resources::PromotionPolicy;

use crate::condition::{CompiledCondition, Scope, dtr_rules};

/// How many compiled conditions a thread keeps.
const MAX_CACHED: usize = 64;

/// Compiles the condition of a policy, from either of its two forms; `None` for a policy without one.
///
/// # Errors
/// Every problem in it.
pub fn compile(policy: &PromotionPolicy) -> Result<Option<CompiledCondition>, Vec<String>> {
    let text = condition_of(policy)?;
    text.map(|text| compile_text(policy, &text)).transpose()
}

fn compile_text(policy: &PromotionPolicy, text: &str) -> Result<CompiledCondition, Vec<String>> {
    match policy.when {
        Some(_) => CompiledCondition::new(text, Scope::Promotion),
        None => CompiledCondition::of_rules(text, Scope::Promotion),
    }
}

fn condition_of(policy: &PromotionPolicy) -> Result<Option<String>, Vec<String>> {
    match &policy.when {
        Some(condition) => Ok(Some(condition.0.clone())),
        None if policy.rules.is_empty() => Ok(None),
        None => dtr_rules::compile(&policy.rules).map(Some),
    }
}

/// Compiles the condition of a policy, or returns it from the cache: policies are read for every evaluation, and compiling
/// takes longer than evaluating.
pub(super) fn compiled(
    policy: &PromotionPolicy,
) -> Result<Option<Rc<CompiledCondition>>, Vec<String>> {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Rc<CompiledCondition>>> = RefCell::default();
    }
    let Some(text) = condition_of(policy)? else {
        return Ok(None);
    };
    if let Some(known) = COMPILED.with_borrow(|compiled| compiled.get(&text).cloned()) {
        return Ok(Some(known));
    }
    let new = Rc::new(compile_text(policy, &text)?);
    COMPILED.with_borrow_mut(|compiled| {
        if compiled.len() >= MAX_CACHED {
            compiled.clear();
        }
        compiled.insert(text, new.clone());
    });
    Ok(Some(new))
}
