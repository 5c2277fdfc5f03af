"""The nouns: frozen values, enums, ids and errors. Knows nothing but the standard library's data types."""
