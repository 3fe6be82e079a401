"""The commands of siglip-perception, one a module; nothing imports them but main."""
