//! Arguments of `policy schema`.

use clap::Args;

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// A standard policy: print the JSON Schema of its configuration
    #[arg(required_unless_present = "cedar")]
    pub name: Option<String>,
    /// Print what Cedar policies speak of: entities, actions and context of sessions and calls
    #[arg(long, conflicts_with = "name")]
    pub cedar: bool,
}
