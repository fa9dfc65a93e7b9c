//! The version that asks for capabilities.

beadle_plugin::export_policy!(life_guests::Lively<3>);
