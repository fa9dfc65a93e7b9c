//! Typed configuration: a struct that is read by serde and described by its JSON Schema.
//!
//! ```
//! use beadle_plugin::{Description, config};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! /// What the operator may set.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// Programs that must not run.
//!     programs: Vec<String>,
//! }
//!
//! let config: Config = config::parse(r#"{"programs":["sudo"]}"#).unwrap();
//! assert_eq!(config.programs, ["sudo"]);
//! let wrong = config::parse::<Config>(r#"{"programs":["sudo",3]}"#).err().unwrap();
//! assert_eq!(wrong, "programs[1]: invalid type: integer `3`, expected a string");
//!
//! let description = Description::new("mine", "0.1.0", "Denies programs.").with_config::<Config>();
//! assert!(description.config_schema.contains("Programs that must not run."));
//! ```
//!
//! Behind the feature `config`. The operator writes TOML; a plugin is given the same as JSON, so errors name keys, not lines.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

use crate::Description;

/// Reads a configuration; the error names the key, its value and what was expected.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        let why = e.into_inner().to_string();
        // Line and column are those of the host's JSON, which the operator never saw.
        let why = why.rfind(" at line ").map_or(why.as_str(), |i| &why[..i]);
        if path == "." { why.to_owned() } else { format!("{path}: {why}") }
    })
}

/// The JSON Schema of a configuration.
pub fn schema<T: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    serde_json::to_string(&settings.into_generator().into_root_schema_for::<T>()).unwrap_or_else(|_| "{}".to_owned())
}

impl Description {
    /// Sets the JSON Schema of the configuration by its type.
    #[must_use]
    pub fn with_config<T: JsonSchema>(self) -> Self {
        self.with_schema(schema::<T>())
    }
}
