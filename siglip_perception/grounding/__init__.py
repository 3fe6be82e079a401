"""Features and phrases -> objects with scores, boxes, masks and places."""
