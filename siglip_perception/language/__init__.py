"""A spoken or typed instruction -> phrases, roles, relations and steps."""
