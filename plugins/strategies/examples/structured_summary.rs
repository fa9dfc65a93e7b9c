//! The strategy `structured-summary` as a component.

beadle_plugin::export_strategy!(strategies::StructuredSummary);
