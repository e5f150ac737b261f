//! What `up` says once it is ready.

use std::path::Path;

use crate::endpoints::Endpoints;
use crate::output::lines;

/// Shows where everything is and what can be done next.
pub(crate) fn show(endpoints: &Endpoints, folder: &Path, applied: &[String]) {
    // Everything runs, whether somebody reads this or not.
    lines(&text(endpoints, folder, applied)).ok();
}

fn text(endpoints: &Endpoints, folder: &Path, applied: &[String]) -> String {
    let data = folder.display();
    let mut lines = vec![
        "sluice is up".to_owned(),
        String::new(),
        format!("  registry  {}", endpoints.registry),
        format!(
            "  api       {}  (its token is in {})",
            endpoints.api,
            endpoints.api_token_file.display()
        ),
        format!("  nats      {}", endpoints.nats.url),
        format!("  health    {}/readyz", endpoints.health),
        format!("  data      {data} (logs of the servers in {data}/logs)"),
    ];
    lines.extend(applied.iter().map(|told| format!("  applied   {told}")));
    lines.push(String::new());
    // The default folder is found without being named.
    let sluice = if folder == Path::new(crate::connection::DATA) {
        "sluice".to_owned()
    } else {
        format!("sluice --data {data}")
    };
    for (command, what) in [
        ("status", "how far behind each stage is"),
        ("events --follow", "what happens, while it happens"),
        ("apply -f FILE", "mirrors, policies, webhooks"),
        ("explain hub/NAME:TAG", "what happened to an image, and why"),
    ] {
        lines.push(format!("  {sluice} {command:<22}{what}"));
    }
    lines.push("  Ctrl-C stops everything".to_owned());
    lines.join("\n")
}
