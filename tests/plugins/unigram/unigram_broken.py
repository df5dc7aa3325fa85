"""A plug-in whose module cannot be imported."""

import a_package_that_nobody_has

METHOD = a_package_that_nobody_has.METHOD
