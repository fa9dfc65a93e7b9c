//! The version that answers allow.

beadle_plugin::export_policy!(life_guests::Lively<1>);
