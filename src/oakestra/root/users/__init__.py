"""Who uses root: users, organizations and their roles, and the administrator there is from the first start."""
