//! The version that answers deny.

beadle_plugin::export_policy!(life_guests::Lively<2>);
