//! The version that fails at each call.

beadle_plugin::export_policy!(life_guests::Lively<4>);
