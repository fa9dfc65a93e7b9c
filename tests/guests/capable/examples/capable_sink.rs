//! An audit sink that posts what it is given, with a secret as the bearer.

beadle_plugin::export_sink!(capable_guests::Ships);
